/* Records what a process does to the files of one folder, so that a test can tell what a power cut would have left.
 *
 * Preloaded (LD_PRELOAD) into the real server. For every file below HINDCAST_RECORD_FOLDER it appends to the file
 * HINDCAST_RECORD_JOURNAL: which bytes were written where, and when a sync began and ended. Entries of one file are in the
 * order in which they took effect; a write that returned before a sync began lies before that sync's beginning.
 *
 * Syncs are not carried out: the journal is the truth, and the folder itself is never looked at after the cut. Each takes
 * HINDCAST_RECORD_SYNC_MICROS instead, as a slow disk would. With HINDCAST_RECORD_LIE=1 every fdatasync says that it has
 * synced, and neither does nor is recorded: a test that passes with that proves nothing. That works without a folder and
 * a journal too; then nothing is recorded and all else is done.
 *
 * Entry, integers big-endian: kind u8, file u64 (inode number), argument u64, length u32, then that many bytes.
 *   'C' path     made; `argument` 1: a folder             'O' path     opened, was there; `argument` 1: a folder
 *   'W' bytes    written at offset `argument`             'T'          cut or grown to `argument` bytes
 *   'B'          sync `argument` began                    'E'          sync `argument` ended
 *   'R' from NUL to                                       'U' path
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MOST_FILES 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;
static char folder[PATH_MAX];
static size_t folder_length;
static long sync_micros;
static int lies;
static uint64_t watched[MOST_FILES];
static size_t watched_count;
static uint64_t next_sync;

static int (*real_open)(const char *, int, ...);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_mkdir)(const char *, mode_t);

static void die(const char *why)
{
    syscall(SYS_write, 2, why, strlen(why));
    abort();
}

static void *next(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        die("recorder: a function is missing\n");
    return found;
}

__attribute__((constructor)) static void start(void)
{
    real_open = next("open");
    real_write = next("write");
    real_writev = next("writev");
    real_pwrite = next("pwrite");
    real_ftruncate = next("ftruncate");
    real_fsync = next("fsync");
    real_fdatasync = next("fdatasync");
    real_rename = next("rename");
    real_unlink = next("unlink");
    real_mkdir = next("mkdir");
    const char *where = getenv("HINDCAST_RECORD_FOLDER"), *path = getenv("HINDCAST_RECORD_JOURNAL");
    const char *micros = getenv("HINDCAST_RECORD_SYNC_MICROS"), *lie = getenv("HINDCAST_RECORD_LIE");
    lies = lie && *lie == '1';
    if (!where || !path)
        return;
    folder_length = strlen(where);
    if (folder_length >= sizeof folder)
        die("recorder: the folder's name is too long\n");
    memcpy(folder, where, folder_length + 1);
    sync_micros = micros ? atol(micros) : 0;
    journal = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (journal < 0)
        die("recorder: the journal cannot be opened\n");
}

static int is_inside(const char *path)
{
    return journal >= 0 && !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

/* All below: with the lock held. */

static void note(char kind, uint64_t file, uint64_t argument, const void *bytes, size_t length)
{
    unsigned char head[21];
    uint64_t file_be = htobe64(file), argument_be = htobe64(argument);
    uint32_t length_be = htobe32((uint32_t)length);
    head[0] = (unsigned char)kind;
    memcpy(head + 1, &file_be, 8);
    memcpy(head + 9, &argument_be, 8);
    memcpy(head + 17, &length_be, 4);
    struct iovec parts[2] = {{head, sizeof head}, {(void *)bytes, length}};
    if (syscall(SYS_writev, journal, parts, length ? 2 : 1) != (long)(sizeof head + length))
        die("recorder: the journal cannot be written\n");
}

static size_t find(uint64_t file)
{
    size_t index = 0;
    while (index < watched_count && watched[index] != file)
        index++;
    return index;
}

static void watch(uint64_t file)
{
    if (find(file) < watched_count)
        return;
    if (watched_count == MOST_FILES)
        die("recorder: too many files\n");
    watched[watched_count++] = file;
}

/* The number of a watched file; 0 for everything else. */
static uint64_t file_of(int descriptor)
{
    struct stat status;
    if (journal < 0 || fstat(descriptor, &status) || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)))
        return 0;
    return find(status.st_ino) < watched_count ? status.st_ino : 0;
}

static int open_and_note(const char *path, int flags, mode_t mode)
{
    if (journal < 0)
        return real_open(path, flags, mode);
    int saved;
    pthread_mutex_lock(&lock);
    struct stat before, after;
    int was_there = !stat(path, &before);
    int descriptor = real_open(path, flags, mode);
    saved = errno;
    if (descriptor >= 0 && !fstat(descriptor, &after)) {
        if (is_inside(path)) {
            watch(after.st_ino);
            note(was_there ? 'O' : 'C', after.st_ino, S_ISDIR(after.st_mode), path, strlen(path));
            if (was_there && (flags & O_TRUNC))
                note('T', after.st_ino, 0, NULL, 0);
        } else if (find(after.st_ino) < watched_count) {
            /* The number of a file that is gone, used again elsewhere. */
            watched[find(after.st_ino)] = watched[--watched_count];
        }
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return descriptor;
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open_and_note(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open_and_note(path, flags, mode);
}

ssize_t write(int descriptor, const void *bytes, size_t length)
{
    pthread_mutex_lock(&lock);
    uint64_t file = file_of(descriptor);
    if (!file) {
        pthread_mutex_unlock(&lock);
        return real_write(descriptor, bytes, length);
    }
    ssize_t done = real_write(descriptor, bytes, length);
    int saved = errno;
    if (done > 0)
        note('W', file, (uint64_t)(lseek(descriptor, 0, SEEK_CUR) - done), bytes, (size_t)done);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return done;
}

ssize_t writev(int descriptor, const struct iovec *parts, int count)
{
    pthread_mutex_lock(&lock);
    uint64_t file = file_of(descriptor);
    pthread_mutex_unlock(&lock);
    if (!file)
        return real_writev(descriptor, parts, count);
    /* A short write is allowed, and write() above records it. */
    for (int index = 0; index < count; index++)
        if (parts[index].iov_len)
            return write(descriptor, parts[index].iov_base, parts[index].iov_len);
    return 0;
}

static ssize_t pwrite_and_note(int descriptor, const void *bytes, size_t length, off_t offset)
{
    pthread_mutex_lock(&lock);
    uint64_t file = file_of(descriptor);
    ssize_t done = real_pwrite(descriptor, bytes, length, offset);
    int saved = errno;
    if (file && done > 0)
        note('W', file, (uint64_t)offset, bytes, (size_t)done);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return done;
}

ssize_t pwrite(int descriptor, const void *bytes, size_t length, off_t offset)
{
    return pwrite_and_note(descriptor, bytes, length, offset);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t length, off64_t offset)
{
    return pwrite_and_note(descriptor, bytes, length, offset);
}

static int truncate_and_note(int descriptor, off_t length)
{
    pthread_mutex_lock(&lock);
    uint64_t file = file_of(descriptor);
    int outcome = real_ftruncate(descriptor, length);
    int saved = errno;
    if (file && !outcome)
        note('T', file, (uint64_t)length, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return outcome;
}

int ftruncate(int descriptor, off_t length)
{
    return truncate_and_note(descriptor, length);
}

int ftruncate64(int descriptor, off64_t length)
{
    return truncate_and_note(descriptor, length);
}

static int sync_and_note(int descriptor, int (*real)(int))
{
    if (lies && real == real_fdatasync)
        return 0;
    pthread_mutex_lock(&lock);
    uint64_t file = file_of(descriptor);
    if (!file) {
        pthread_mutex_unlock(&lock);
        return real(descriptor);
    }
    uint64_t sync = next_sync++;
    note('B', file, sync, NULL, 0);
    pthread_mutex_unlock(&lock);
    struct timespec pause = {sync_micros / 1000000, sync_micros % 1000000 * 1000};
    nanosleep(&pause, NULL);
    pthread_mutex_lock(&lock);
    note('E', file, sync, NULL, 0);
    pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int descriptor)
{
    return sync_and_note(descriptor, real_fsync);
}

int fdatasync(int descriptor)
{
    return sync_and_note(descriptor, real_fdatasync);
}

int rename(const char *from, const char *to)
{
    pthread_mutex_lock(&lock);
    int outcome = real_rename(from, to);
    int saved = errno;
    if (!outcome && is_inside(from) && is_inside(to)) {
        char both[2 * PATH_MAX];
        size_t from_length = strlen(from), to_length = strlen(to);
        memcpy(both, from, from_length + 1);
        memcpy(both + from_length + 1, to, to_length);
        note('R', 0, 0, both, from_length + 1 + to_length);
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return outcome;
}

int unlink(const char *path)
{
    pthread_mutex_lock(&lock);
    int outcome = real_unlink(path);
    int saved = errno;
    if (!outcome && is_inside(path))
        note('U', 0, 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    errno = saved;
    return outcome;
}

int mkdir(const char *path, mode_t mode)
{
    pthread_mutex_lock(&lock);
    int outcome = real_mkdir(path, mode);
    int saved = errno;
    struct stat status;
    if (!outcome && is_inside(path) && !stat(path, &status)) {
        watch(status.st_ino);
        note('C', status.st_ino, 1, path, strlen(path));
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return outcome;
}
