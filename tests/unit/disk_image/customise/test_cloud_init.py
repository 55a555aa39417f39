from __future__ import annotations

import pytest

from coreimage.disk_image import Customisation, joined, parse_network_config, parse_user_data
from coreimage.disk_image.customise.customisation import customisation_files
from coreimage.disk_image.customise.login import Login
from coreimage.errors import ConfigError

HEAD = "#cloud-config\n"


def test_cloud_config_becomes_files_and_a_script() -> None:
    said = parse_user_data(
        HEAD + "hostname: a\nssh_authorized_keys: [k]\npassword: p\nruncmd: ['a b', [c, 'd e']]\n"
        "write_files: [{path: /etc/x/y, content: z, permissions: '0600'},"
        " {path: /srv/x, content: eA==, encoding: b64}]\n",
        "user-data",
    )
    assert (said.ssh_keys, said.password) == (("k",), "p")
    files = {file.path: file for file in customisation_files(said.customisation)}
    assert files["overlays/etc/upper/x/y"].content == b"z"
    assert files["overlays/etc/upper/x/y"].mode == 0o600
    script = files["overlays/etc/upper/coreimage/first-boot/run"].content or b""
    assert b"install -D -m 644 /etc/coreimage/first-boot/files/0 /srv/x\nset +e\na b\nc 'd e'\n" in script
    assert files["overlays/etc/upper/coreimage/first-boot/files/0"].content == b"x"
    assert b"127.0.1.1 a\n" in (files["overlays/etc/upper/hosts"].content or b"")
    wants = "overlays/etc/upper/systemd/system/multi-user.target.wants/coreimage-first-boot.service"
    assert files[wants].link == "/etc/systemd/system/coreimage-first-boot.service"


def test_a_script_runs_once() -> None:
    files = {file.path: file for file in customisation_files(parse_user_data("#!/bin/sh\nx\n", "u").customisation)}
    assert files["overlays/etc/upper/coreimage/first-boot/user-script"].mode == 0o700


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("packages: [x]\n", "(file)", "first line"),
        (HEAD + "host_name: x\n", "host_name", "did you mean 'hostname'"),
        (HEAD + "packages: [x]\n", "packages", "is not supported"),
        (HEAD + "hostname: a_b\n", "hostname", "host name"),
        (HEAD + "write_files: [{path: /etc/../x}]\n", "write_files", "`.` or `..`"),
        (HEAD + "write_files: [{path: x}]\n", "write_files.0.path", "pattern"),
        (HEAD + "write_files: [{path: /x, permissions: rw}]\n", "write_files.0.permissions", "octal"),
        (HEAD + "write_files: [{path: /x, content: '*', encoding: b64}]\n", "write_files", "base64"),
        (HEAD + "- x\n", "(top)", "mapping"),
        (HEAD + "a: [\n", "yaml", "expected"),
    ],
)
def test_what_cannot_be_done_is_refused_by_key(text: str, place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_user_data(text, "user-data")
    assert any(place in problem.key and message in problem.message for problem in caught.value.problems), caught.value


def test_network_config_becomes_networkd_files() -> None:
    text = """
network:
  version: 2
  ethernets:
    eth0:
      match: {macaddress: '52:54:00:00:00:01'}
      dhcp4: true
      addresses: [192.0.2.2/24]
      gateway4: 192.0.2.1
      nameservers: {addresses: [192.0.2.3], search: [example.com]}
      routes: [{to: 198.51.100.0/24, via: 192.0.2.9, metric: 5}]
"""
    assert parse_network_config(text, "n").networks == {
        "10-eth0.network": "[Match]\nMACAddress=52:54:00:00:00:01\n\n"
        "[Network]\nDHCP=ipv4\nAddress=192.0.2.2/24\nGateway=192.0.2.1\nDNS=192.0.2.3\nDomains=example.com\n\n"
        "[Route]\nDestination=198.51.100.0/24\nGateway=192.0.2.9\nMetric=5\n"
    }
    with pytest.raises(ConfigError, match="version"):
        parse_network_config("version: 1\nethernets: {a: {}}\n", "n")
    with pytest.raises(ConfigError, match="bridges: is not supported"):
        parse_network_config("version: 2\nethernets: {a: {}}\nbridges: {}\n", "n")


def test_later_wishes_win_and_lists_add_up() -> None:
    first = Customisation(hostname="a", ssh_passwords=False, commands=("1",), networks={"x": "1"})
    both = joined([first, Customisation(hostname="b", commands=("2",), networks={"y": "2"})])
    assert both == Customisation(hostname="b", ssh_passwords=False, commands=("1", "2"), networks={"x": "1", "y": "2"})


def test_nothing_asked_writes_nothing() -> None:
    assert customisation_files(Customisation()) == ()
    assert Login(password="x").ssh_keys == ()
