#!/bin/sh
# Runs in the rootfs as root, without network, after the packages and the overlay. A failure ends the build.
set -eu
version=$(dpkg-query --show --showformat='${Version}' my-service)
echo "version = $version" >> /etc/my-service/settings.conf
useradd --system --no-create-home --shell /usr/sbin/nologin my-service
