// A hook that leaves its chroot and tries what is outside. Says REACHED for whatever it gets at.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

static FILE *report;

static void try(const char *what, long result) {
    fprintf(report, "%s %s: %s\n", result >= 0 ? "REACHED" : "refused", what, result >= 0 ? "" : strerror(errno));
}

static void try_writing(const char *path) { try(path, open(path, O_WRONLY)); }

int main(void) {
    report = fopen("/etc/report-escape", "w");
    if (!report) return 1;
    setbuf(report, NULL);
    int outside = open("/", O_RDONLY | O_DIRECTORY);
    mkdir("/tmp/deeper", 0700);
    if (chroot("/tmp/deeper") || fchdir(outside)) return 2;
    for (int up = 0; up < 64; up++) if (chdir("..")) return 3;
    if (chroot(".")) return 4;
    if (access("/root", F_OK) || !access("/var/lib/dpkg/status", F_OK)) return 5;
    fprintf(report, "left the chroot\n");

    try("making /usr writable", mount(NULL, "/usr", NULL, MS_REMOUNT | MS_BIND, NULL));
    try("unmounting /usr", umount2("/usr", MNT_DETACH));
    try("a file in /usr", open("/usr/bin", O_TMPFILE | O_WRONLY, 0755));
    try_writing("/usr/bin/xz");
    try_writing("/usr/bin/tar");
    try_writing("/etc/passwd");
    try_writing("/proc/sys/kernel/core_pattern");
    try_writing("/proc/sysrq-trigger");
    try_writing("/sys/kernel/uevent_helper");
    try("/proc/kcore", open("/proc/kcore", O_RDONLY));
    try("/proc/1/root", open("/proc/1/root/old", O_RDONLY));
    try("a node of a disk", mknod("/tmp/disk", S_IFBLK | 0600, makedev(254, 0)));
    try("a node in /dev", mknod("/dev/coreimage-was-here", S_IFCHR | 0600, makedev(1, 3)));
    try("the controlling terminal", open("/dev/tty", O_RDWR));
    try("cgroups", open("/sys/fs/cgroup/cgroup.procs", O_WRONLY));
    try("shared memory", shmget(OUTSIDE_KEY, 0, 0));
    try("the session keyring", syscall(SYS_request_key, "user", OUTSIDE_NAME, NULL, 0));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path + 1, OUTSIDE_NAME, sizeof OUTSIDE_NAME - 1);
    int unix_socket = socket(AF_UNIX, SOCK_STREAM, 0);
    try("an abstract socket", connect(unix_socket, (struct sockaddr *)&address,
                                      offsetof(struct sockaddr_un, sun_path) + sizeof OUTSIDE_NAME));
    struct timeval now;
    gettimeofday(&now, NULL);  // the same time: where the box does not hold, the machine must stay as it is
    try("the clock", settimeofday(&now, NULL));
    try("kernel modules", syscall(SYS_init_module, "", 0, ""));
    sethostname("taken-over", 10);
    char target[64];
    for (int fd = 3; fd < 256; fd++)
        if (fd != outside && fd != unix_socket && fd != fileno(report) && fcntl(fd, F_GETFD) >= 0) {
            char link[32];
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            long length = readlink(link, target, sizeof target - 1);
            target[length < 0 ? 0 : length] = 0;
            if (strncmp(target, "/dev/", 5) && strncmp(target, "/usr/", 5)) fprintf(report, "open: %d %s\n", fd, target);
        }
    DIR *nodes = opendir("/dev");
    for (struct dirent *node; nodes && (node = readdir(nodes));) fprintf(report, "node: %s\n", node->d_name);
    fprintf(report, "done\n");
    return 0;
}
