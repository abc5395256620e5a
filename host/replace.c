/* SPDX-License-Identifier: Apache-2.0 */
/* replace.c - files that are written whole or not at all. */
#include "replace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Names beside a place that are tried, where others are there already. */
enum { NAMES = 100 };

/* A new file beside the place; -1: errno says why there is none. */
static int create_beside(spc_replace *r)
{
    size_t bytes = strlen(r->path) + 48;
    int fd = -1;

    r->beside = malloc(bytes);
    for (int i = 0; r->beside && fd < 0 && i < NAMES; i++) {
        (void)snprintf(r->beside, bytes, "%s.%ld-%d.partial", r->path, (long)getpid(), i);
        fd = open(r->beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) break;
    }
    return fd;
}

int spc_replace_begin(spc_replace *out, const char *path)
{
    struct stat there;
    bool any = stat(path, &there) == 0, plain = any && S_ISREG(there.st_mode);
    char *behind = realpath(path, NULL);
    int fd = -1, why;

    *out = (spc_replace){NULL, NULL, NULL};
    out->path = behind ? behind : strdup(path);
    if (!out->path) return ENOMEM;
    if (plain && access(out->path, W_OK) != 0) goto fail;
    if (plain ? behind != NULL : !any && lstat(path, &there) != 0) {
        fd = create_beside(out);
        if (fd >= 0 && plain) (void)fchmod(fd, there.st_mode & 07777);
    } else { /* no plain file, or a link that leads nowhere yet */
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    }
    if (fd >= 0) out->file = fdopen(fd, "wb");
    if (out->file) return 0;
fail:
    why = errno;
    if (fd >= 0) (void)close(fd);
    if (fd >= 0 && out->beside) (void)unlink(out->beside);
    free(out->beside);
    free(out->path);
    return why;
}

int spc_replace_end(spc_replace *r, bool whole)
{
    int why = whole ? 0 : errno ? errno : EIO;

    if (why == 0 && ferror(r->file)) why = EIO;
    errno = 0;
    if (fclose(r->file) != 0 && why == 0) why = errno ? errno : EIO;
    if (why == 0 && r->beside && rename(r->beside, r->path) != 0) why = errno;
    if (why != 0 && r->beside) (void)unlink(r->beside);
    free(r->beside);
    free(r->path);
    return why;
}

int spc_replace_check(const char *path)
{
    struct stat there;
    spc_replace trial;
    bool any = stat(path, &there) == 0;
    int why;

    /* to open these would be to write to them, or to wait for a reader */
    if (any && S_ISDIR(there.st_mode)) return EISDIR;
    if (any && !S_ISREG(there.st_mode)) return access(path, W_OK) == 0 ? 0 : errno;
    if (!any && lstat(path, &there) == 0) return 0;
    why = spc_replace_begin(&trial, path);
    if (why == 0) (void)spc_replace_end(&trial, false);
    return why;
}
