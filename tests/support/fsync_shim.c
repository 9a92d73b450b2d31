/* Preloaded into a broker process by the tests (see shim.rs). Two uses:
 *
 * 1. While the file HOLDFAST_SHIM_HOLD exists, every fsync, fdatasync, msync and sync_file_range blocks.
 * 2. Below the directory HOLDFAST_SHIM_DIR it keeps, in HOLDFAST_SHIM_MIRROR, a copy of exactly what was
 *    synced, from which the test rebuilds the directory as a power failure would leave it:
 *      inodes/N   the synced content of inode N (an old inode that was unlinked or replaced: N.K)
 *      journal    one line per change of names, in order:
 *        F N PATH   inode N was synced under this name (which makes the name durable, as ext4 and XFS do)
 *        D PATH     a directory was synced; E lines with its entries follow
 *        E N NAME
 *        R N N.K    from now on, "inode N" of the lines above is called N.K: the number may be reused
 *    Directories themselves are taken to be durable when made.
 *
 * Written bytes are tracked per inode as one range from lowest to highest, cleared by a sync. RocksDB neither
 * writes through mappings nor through io_uring as we build it. Files are tracked by number on one device.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES_MAX 8192

struct file {
    ino_t inode; /* 0: free */
    off_t from, to; /* written and not synced; from == to: nothing */
    char *name; /* as last written to the journal */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file files[FILES_MAX];
static size_t files_used; /* below this index, some may be free again */
static char directory[PATH_MAX], mirror[PATH_MAX], hold[PATH_MAX];
static size_t directory_length;
static int journal = -1;
static unsigned long aliases;

static void fail(const char *what) {
    char text[256];
    int n = snprintf(text, sizeof text, "fsync shim: %s: %s\n", what, strerror(errno));
    syscall(SYS_write, 2, text, n);
    abort();
}

__attribute__((constructor)) static void start(void) {
    const char *h = getenv("HOLDFAST_SHIM_HOLD"), *d = getenv("HOLDFAST_SHIM_DIR"), *m = getenv("HOLDFAST_SHIM_MIRROR");
    char path[PATH_MAX + 16];
    if (h) snprintf(hold, sizeof hold, "%s", h);
    if (!d || !m) return;
    snprintf(directory, sizeof directory, "%s", d);
    snprintf(mirror, sizeof mirror, "%s", m);
    directory_length = strlen(directory);
    snprintf(path, sizeof path, "%s/journal", mirror);
    journal = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (journal < 0) fail(path);
}

static void record(const char *line) {
    size_t n = strlen(line);
    if (syscall(SYS_write, journal, line, n) != (long)n) fail("journal");
}

static void wait_while_held(void) {
    if (!hold[0]) return;
    while (access(hold, F_OK) == 0) usleep(2000);
}

/* Whether a path lies below the directory (or is it). */
static int is_inside(const char *path) {
    return directory_length && strncmp(path, directory, directory_length) == 0
        && (path[directory_length] == '/' || path[directory_length] == 0);
}

/* The path of an open file that is ours; 0 when it is not ours or has no name any more. */
static int path_of(int fd, char *path) {
    char link[64];
    ssize_t n;
    if (!directory_length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, PATH_MAX - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    if (n > 10 && strcmp(path + n - 10, " (deleted)") == 0) return 0;
    return is_inside(path);
}

static struct file *file_of(ino_t inode, int create) {
    struct file *unused = 0;
    for (size_t i = 0; i < files_used; i++) {
        if (files[i].inode == inode) return &files[i];
        if (!files[i].inode && !unused) unused = &files[i];
    }
    if (!create) return 0;
    if (!unused && files_used == FILES_MAX) { errno = ENOMEM; fail("too many files"); }
    if (!unused) unused = &files[files_used++];
    unused->inode = inode;
    unused->from = unused->to = 0;
    return unused;
}

static void forget(ino_t inode) {
    struct file *f = file_of(inode, 0);
    if (!f) return;
    free(f->name);
    f->name = 0;
    f->inode = 0;
}

/* After `count` bytes were written; `end` is the offset after them. */
static void written(int fd, off_t end, size_t count) {
    struct stat s;
    char path[PATH_MAX];
    struct file *f;
    off_t from = end - (off_t)count;
    int saved = errno;
    if (!directory_length || count == 0 || fstat(fd, &s) != 0 || !S_ISREG(s.st_mode) || !path_of(fd, path)) {
        errno = saved;
        return;
    }
    pthread_mutex_lock(&lock);
    f = file_of(s.st_ino, 1);
    if (f->from == f->to) { f->from = from; f->to = end; }
    if (from < f->from) f->from = from;
    if (end > f->to) f->to = end;
    pthread_mutex_unlock(&lock);
    errno = saved;
}

static void copy(int from_fd, int to_fd, off_t from, off_t to) {
    char buffer[65536];
    while (from < to) {
        size_t want = (size_t)(to - from) < sizeof buffer ? (size_t)(to - from) : sizeof buffer;
        ssize_t n = syscall(SYS_pread64, from_fd, buffer, want, from);
        if (n < 0) fail("read of a synced file");
        if (n == 0) return;
        if (syscall(SYS_pwrite64, to_fd, buffer, n, from) != n) fail("write of the mirror");
        from += n;
    }
}

/* Copies what was written before the sync to the mirror, after the sync. */
static void mirror_file(const struct stat *s, const char *path, off_t from, off_t to) {
    char target[PATH_MAX + 64], line[PATH_MAX + 64];
    struct stat old;
    struct file *f;
    int fd, source;
    snprintf(target, sizeof target, "%s/inodes/%lu", mirror, (unsigned long)s->st_ino);
    /* The broker's own descriptor may be write-only. */
    source = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (source < 0) return;
    fd = syscall(SYS_openat, AT_FDCWD, target, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || fstat(fd, &old) != 0) fail(target);
    copy(source, fd, from, to < s->st_size ? to : s->st_size);
    /* Bytes that arrived in another way than through a write that we saw. */
    if (old.st_size < s->st_size && old.st_size < from) copy(source, fd, old.st_size, from);
    if (to < s->st_size && old.st_size < s->st_size) copy(source, fd, old.st_size > to ? old.st_size : to, s->st_size);
    if (ftruncate(fd, s->st_size) != 0) fail(target);
    close(fd);
    close(source);
    f = file_of(s->st_ino, 1);
    if (f->name && strcmp(f->name, path) == 0) return;
    free(f->name);
    f->name = strdup(path);
    snprintf(line, sizeof line, "F %lu %s\n", (unsigned long)s->st_ino, path);
    record(line);
}

static void mirror_directory(const char *path) {
    char line[PATH_MAX + 64];
    size_t size = 0, capacity = 65536;
    char *text = malloc(capacity);
    DIR *entries = opendir(path);
    struct dirent *entry;
    if (!entries || !text) fail(path);
    size = (size_t)snprintf(text, capacity, "D %s\n", path);
    while ((entry = readdir(entries))) {
        if (entry->d_type == DT_DIR) continue;
        int n = snprintf(line, sizeof line, "E %lu %s\n", (unsigned long)entry->d_ino, entry->d_name);
        while (size + (size_t)n + 1 > capacity) text = realloc(text, capacity *= 2);
        memcpy(text + size, line, (size_t)n + 1);
        size += (size_t)n;
    }
    closedir(entries);
    record(text);
    free(text);
}

static int sync_with(long call, int fd) {
    struct stat s;
    char path[PATH_MAX];
    off_t from = 0, to = 0;
    int ours, result;
    wait_while_held();
    ours = directory_length && fstat(fd, &s) == 0 && path_of(fd, path);
    if (ours && S_ISREG(s.st_mode)) {
        pthread_mutex_lock(&lock);
        struct file *f = file_of(s.st_ino, 1);
        from = f->from;
        to = f->to;
        f->from = f->to = 0;
        pthread_mutex_unlock(&lock);
    }
    result = (int)syscall(call, fd);
    if (ours && result == 0) {
        pthread_mutex_lock(&lock);
        /* Renamed meanwhile: it is durable under its newer name. */
        if (!path_of(fd, path)) ;
        else if (S_ISREG(s.st_mode)) mirror_file(&s, path, from, to);
        else if (S_ISDIR(s.st_mode)) mirror_directory(path);
        pthread_mutex_unlock(&lock);
        errno = 0;
    }
    return result;
}

int fsync(int fd) { return sync_with(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_with(SYS_fdatasync, fd); }

int sync_file_range(int fd, off64_t offset, off64_t count, unsigned int flags) {
    wait_while_held();
    return (int)syscall(SYS_sync_file_range, fd, offset, count, flags);
}

int msync(void *address, size_t length, int flags) {
    wait_while_held();
    return (int)syscall(SYS_msync, address, length, flags);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t n = syscall(SYS_write, fd, bytes, count);
    if (n > 0 && directory_length) written(fd, syscall(SYS_lseek, fd, 0, SEEK_CUR), (size_t)n);
    return n;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t n = syscall(SYS_writev, fd, parts, count);
    if (n > 0 && directory_length) {
        int saved = errno;
        off_t end = syscall(SYS_lseek, fd, 0, SEEK_CUR);
        errno = saved;
        if (end >= 0) written(fd, end, (size_t)n);
    }
    return n;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    ssize_t n = syscall(SYS_pwrite64, fd, bytes, count, offset);
    if (n > 0) written(fd, offset + n, (size_t)n);
    return n;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return pwrite64(fd, bytes, count, offset); }

/* A file loses this name: when it is its last one, its number may come back for another file. */
static unsigned long doomed(int dirfd, const char *path) {
    struct stat s;
    if (!directory_length || fstatat(dirfd, path, &s, AT_SYMLINK_NOFOLLOW) != 0) return 0;
    return S_ISREG(s.st_mode) && s.st_nlink == 1 ? (unsigned long)s.st_ino : 0;
}

static void set_aside(unsigned long inode) {
    char from[PATH_MAX + 64], to[PATH_MAX + 64], line[128];
    int saved = errno;
    if (!inode) return;
    pthread_mutex_lock(&lock);
    snprintf(from, sizeof from, "%s/inodes/%lu", mirror, inode);
    snprintf(to, sizeof to, "%s/inodes/%lu.%lu", mirror, inode, ++aliases);
    if (syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to) == 0) {
        snprintf(line, sizeof line, "R %lu %lu.%lu\n", inode, inode, aliases);
        record(line);
    }
    forget(inode);
    pthread_mutex_unlock(&lock);
    errno = saved;
}

int unlinkat(int dirfd, const char *path, int flags) {
    unsigned long inode = doomed(dirfd, path);
    int result = (int)syscall(SYS_unlinkat, dirfd, path, flags);
    if (result == 0) set_aside(inode);
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    unsigned long inode = doomed(to_dir, to);
    int result = (int)syscall(SYS_renameat, from_dir, from, to_dir, to);
    if (result == 0) set_aside(inode);
    return result;
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }
