/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_comm_boot.c - processes that meet: by an address and by a file, with strangers at the
 * door and files of earlier runs in the way; and who is told what when somebody does not come. */
#include "host/ranks/comm_boot.h"
#include "stopped.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RANKS = 5, LONG_MS = 20000, SHORT_MS = 300, ID = 128 };

typedef struct {
    spc_place place;
    int32_t late_ms; /* it comes so much later */
    spc_status status;
    spc_error error;
    unsigned char id[ID];
    int32_t record[RANKS];
    uint64_t nonce;
    int fd; /* where it listens */
    spc_link_address address[RANKS];
} part;

static void wait_ms(long ms)
{
    (void)nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static int64_t now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void *run_part(void *user)
{
    part *p = user;
    spc_boot *boot;
    int32_t mine = p->place.rank * 100;

    wait_ms(p->late_ms);
    for (int i = 0; i < ID; i++) p->id[i] = (unsigned char)(p->place.rank == 0 ? 255 - i : 7);
    p->fd = -1;
    p->status = spc_boot_open(&p->place, &boot, &p->error);
    if (p->status != SPC_OK) return NULL;
    p->nonce = spc_boot_nonce(boot);
    p->status = spc_boot_broadcast(boot, p->id, ID, &p->error);
    if (!p->status) p->status = spc_boot_gather(boot, &mine, p->record, sizeof mine, &p->error);
    if (!p->status) p->status = spc_boot_listen(boot, &p->fd, &p->error);
    if (!p->status) p->status = spc_boot_addresses(boot, p->fd, p->address, &p->error);
    spc_boot_close(boot);
    return NULL;
}

static void run_parts(part *p, int32_t count)
{
    pthread_t thread[RANKS];

    for (int32_t k = 0; k < count; k++) {
        cr_assert_eq(pthread_create(&thread[k], NULL, run_part, &p[k]), 0);
    }
    for (int32_t k = 0; k < count; k++) (void)pthread_join(thread[k], NULL);
}

static void path_of(char path[64])
{
    static int count;

    (void)snprintf(path, 64, "/tmp/spc-test-boot-%ld-%d", (long)getpid(), count++);
}

/* An address at which nobody listens at the moment. */
static void address_of(char text[SPC_LINK_TEXT])
{
    spc_link_address any, at;
    int fd;

    cr_assert_eq(spc_link_resolve("127.0.0.1:0", true, &any, NULL), SPC_OK);
    cr_assert_eq(spc_link_listen(&any, &fd, NULL), SPC_OK);
    cr_assert(spc_link_own(fd, &at));
    (void)spc_link_text(&at, text);
    spc_link_close(fd);
}

static void expect_met(part *p, int32_t world)
{
    for (int32_t r = 0; r < world; r++) {
        cr_assert_eq(p[r].status, SPC_OK, "rank %d: %s", (int)r, p[r].error.message);
        cr_expect_arr_eq(p[r].id, p[0].id, ID);
        cr_expect_eq(p[r].nonce, p[0].nonce);
        for (int32_t k = 0; k < world; k++) {
            int fd = -1;

            cr_expect_eq(p[r].record[k], 100 * k);
            if (k != r) fd = spc_link_connect(&p[r].address[k], spc_awake_ms() + 1000);
            cr_expect(k == r || fd >= 0, "rank %d does not reach rank %d", (int)r, (int)k);
            spc_link_close(fd);
        }
    }
    for (int32_t r = 0; r < world; r++) spc_link_close(p[r].fd);
}

Test(host_comm_boot, an_address_or_a_file_brings_all_together_in_any_order)
{
    for (int32_t way = 0; way < 3; way++) {
        for (int32_t world = 1; world <= RANKS; world += 2) {
            char meet[SPC_LINK_TEXT], link[64] = "";
            part p[RANKS];

            way == 0 ? address_of(meet) : path_of(meet);
            if (way == 2) { /* by a link to the file */
                (void)strcpy(link, meet);
                path_of(meet);
                cr_assert_eq(symlink(link, meet), 0);
            }
            for (int32_t r = 0; r < world; r++) {
                p[r] = (part){.place = {r, world, meet, LONG_MS}, .late_ms = (7 - r) % 3 * 30};
            }
            run_parts(p, world);
            expect_met(p, world);
            cr_expect_neq(access(meet, F_OK), 0, "the file is removed");
            if (way == 2) cr_expect_eq(unlink(meet), 0, "the link stays");
        }
    }
}

/* One rank comes when all have been stopped, and a moment later. */
static void *come_stopped(void *user)
{
    wait_ms(100);
    (void)raise(SIGSTOP);
    wait_ms(100);
    return run_part(user);
}

typedef struct {
    char meet[SPC_LINK_TEXT];
    int32_t late; /* rank */
} stop_case;

/* 0, or 1 + the rank that failed. */
static int meet_stopped(void *user)
{
    stop_case *c = user;
    part p[2];
    pthread_t thread[2];

    for (int32_t r = 0; r < 2; r++) {
        p[r] = (part){.place = {r, 2, c->meet, 1000}};
        (void)pthread_create(&thread[r], NULL, r == c->late ? come_stopped : run_part, &p[r]);
    }
    for (int32_t r = 0; r < 2; r++) (void)pthread_join(thread[r], NULL);
    for (int32_t r = 0; r < 2; r++) {
        if (p[r].status != SPC_OK) return 1 + r;
    }
    return 0;
}

Test(host_comm_boot, time_in_which_all_are_stopped_does_not_count)
{
    for (int32_t way = 0; way < 4; way++) {
        stop_case c = {.late = way / 2};
        int stops;

        way % 2 ? path_of(c.meet) : address_of(c.meet);
        cr_expect_eq(stopped_run(1500, meet_stopped, &c, &stops), 0, "way %d", (int)way);
        cr_expect_eq(stops, 1);
    }
}

Test(host_comm_boot, those_who_do_not_come_are_named_to_those_who_did)
{
    char meet[64];
    part p[2];

    path_of(meet);
    p[0] = (part){.place = {0, 4, meet, SHORT_MS}};
    p[1] = (part){.place = {2, 4, meet, SHORT_MS}};
    run_parts(p, 2);
    for (int32_t k = 0; k < 2; k++) {
        cr_expect_eq(p[k].status, SPC_EDEVICE);
        cr_expect(strstr(p[k].error.message, "expected all 4 ranks within 300 ms, and these did "
                                             "not come: rank 1, 3"),
                  "%s", p[k].error.message);
    }
    cr_expect_neq(access(meet, F_OK), 0, "no file is left");
}

static void *run_refusal(void *user)
{
    part *p = user;

    (void)spc_error_set(&p->error, SPC_EINPUT, "no prompts");
    spc_boot_refuse(&p->place, &p->error);
    return NULL;
}

/* Whether or not all come; without others, or at no place, it returns at once. */
Test(host_comm_boot, what_rank_0_refuses_is_told_to_those_who_come)
{
    for (int32_t missing = 0; missing < 2; missing++) {
        int32_t wait = missing ? SHORT_MS : LONG_MS;
        char meet[64];
        part p[3];
        pthread_t thread;

        path_of(meet);
        p[0] = (part){.place = {0, 3 + missing, meet, wait}};
        cr_assert_eq(pthread_create(&thread, NULL, run_refusal, &p[0]), 0);
        p[1] = (part){.place = {1, 3 + missing, meet, LONG_MS}};
        p[2] = (part){.place = {2, 3 + missing, meet, LONG_MS}, .late_ms = 50};
        run_parts(p + 1, 2);
        (void)pthread_join(thread, NULL);
        for (int32_t k = 1; k < 3; k++) {
            cr_expect_eq(p[k].status, SPC_EINPUT);
            cr_expect_str_eq(p[k].error.message, "rank 0: no prompts");
        }
        cr_expect_neq(access(meet, F_OK), 0, "no file is left");
    }

    part alone = {.place = {0, 1, NULL, LONG_MS}}, nowhere = {.place = {0, 2, NULL, LONG_MS}};
    int64_t start = now_ms();

    (void)run_refusal(&alone);
    (void)run_refusal(&nowhere);
    cr_expect_lt(now_ms() - start, LONG_MS / 2);
}

Test(host_comm_boot, without_rank_0_the_others_say_where_they_looked)
{
    char meet[64], address[SPC_LINK_TEXT];
    part p[2];

    path_of(meet);
    address_of(address);
    p[0] = (part){.place = {1, 2, meet, SHORT_MS}};
    p[1] = (part){.place = {1, 2, address, SHORT_MS}};
    run_parts(p, 2);
    cr_expect_eq(p[0].status, SPC_EDEVICE);
    cr_expect(strstr(p[0].error.message, "rank 1 expected rank 0 within 300 ms: nothing wrote"),
              "%s", p[0].error.message);
    cr_expect_eq(p[1].status, SPC_EDEVICE);
    cr_expect(strstr(p[1].error.message, "nobody answers there"), "%s", p[1].error.message);
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    cr_assert_not_null(file);
    cr_assert_geq(fputs(text, file), 0);
    cr_assert_eq(fclose(file), 0);
}

/* A file of an earlier run: of no use by itself, and no harm to a run that uses its name. */
Test(host_comm_boot, a_file_of_an_earlier_run_is_seen_through)
{
    spc_link_address any, at;
    char meet[64], text[128];
    part p[2];
    int fd;

    /* it names a port at which someone else listens by now, and never answers */
    cr_assert_eq(spc_link_resolve("127.0.0.1:0", true, &any, NULL), SPC_OK);
    cr_assert_eq(spc_link_listen(&any, &fd, NULL), SPC_OK);
    cr_assert(spc_link_own(fd, &at));
    (void)snprintf(text, sizeof text, "spc 1 localhost %u 00000000deadbeef\n",
                   (unsigned)spc_link_port(&at));
    path_of(meet);
    write_file(meet, text);
    p[0] = (part){.place = {1, 2, meet, SHORT_MS}};
    run_parts(p, 1);
    cr_expect_eq(p[0].status, SPC_EDEVICE);
    cr_expect(strstr(p[0].error.message, "did an earlier run leave it?"), "%s", p[0].error.message);
    spc_link_close(fd);

    /* now nobody listens there, and rank 0 comes later */
    p[0] = (part){.place = {0, 2, meet, LONG_MS}, .late_ms = 200};
    p[1] = (part){.place = {1, 2, meet, LONG_MS}};
    run_parts(p, 2);
    expect_met(p, 2);
}

/* What somebody named by mistake is neither replaced nor removed; an empty file may be meant. */
Test(host_comm_boot, a_file_that_no_run_wrote_is_left)
{
    static const char *const texts[] = {"Dear diary,\n", "spc"};
    char meet[64], text[128] = "";
    part p[2];

    path_of(meet);
    for (int i = 0; i < 2; i++) {
        FILE *file;

        write_file(meet, texts[i]);
        p[0] = (part){.place = {0, 2, meet, SHORT_MS}};
        run_parts(p, 1);
        cr_expect_eq(p[0].status, SPC_EINPUT);
        cr_expect(strstr(p[0].error.message, "found something else"), "%s", p[0].error.message);
        file = fopen(meet, "r");
        cr_assert(file && fgets(text, sizeof text, file));
        cr_expect_str_eq(text, texts[i]);
        (void)fclose(file);
    }
    write_file(meet, "");
    p[0] = (part){.place = {0, 2, meet, LONG_MS}};
    p[1] = (part){.place = {1, 2, meet, LONG_MS}};
    run_parts(p, 2);
    expect_met(p, 2);
}

/* Nobody ever writes to it: to open it would be to wait beyond the timeout. */
Test(host_comm_boot, a_fifo_keeps_nobody_waiting)
{
    char meet[64];
    part p[1];

    path_of(meet);
    cr_assert_eq(mkfifo(meet, 0600), 0);
    (void)alarm(LONG_MS / 1000);
    p[0] = (part){.place = {1, 2, meet, SHORT_MS}};
    run_parts(p, 1);
    (void)alarm(0);
    cr_expect_eq(p[0].status, SPC_EDEVICE);
    cr_expect(strstr(p[0].error.message, "nothing wrote this file"), "%s", p[0].error.message);
    (void)unlink(meet);
}

/* The door of another group: this rank is not let in there. */
Test(host_comm_boot, a_file_that_leads_to_another_group_is_seen_through)
{
    char meet[64], other[64], address[SPC_LINK_TEXT], text[128];
    part p[4];

    path_of(meet);
    path_of(other);
    address_of(address);
    (void)snprintf(text, sizeof text, "spc 1 127.0.0.1 %s 00000000deadbeef\n",
                   strchr(address, ':') + 1);
    write_file(meet, text);
    /* the first two meet at the address that the file names by mistake */
    p[0] = (part){.place = {0, 2, address, LONG_MS}};
    p[1] = (part){.place = {1, 2, address, LONG_MS}, .late_ms = 200};
    p[2] = (part){.place = {1, 2, meet, LONG_MS}, .late_ms = 50};
    p[3] = (part){.place = {0, 2, meet, LONG_MS}, .late_ms = 300};
    run_parts(p, 4);
    expect_met(p, 2);
    part late[2] = {p[3], p[2]};

    expect_met(late, 2);
}

Test(host_comm_boot, ranks_that_cannot_be_are_refused)
{
    char meet[SPC_LINK_TEXT];
    part p[3];

    address_of(meet);
    p[0] = (part){.place = {0, 3, meet, LONG_MS}};
    p[1] = (part){.place = {1, 3, meet, LONG_MS}, .late_ms = 50};
    p[2] = (part){.place = {1, 3, meet, LONG_MS}, .late_ms = 150};
    run_parts(p, 3);
    for (int32_t k = 0; k < 3; k++) cr_expect_eq(p[k].status, SPC_EUSAGE, "%d", (int)k);
    cr_expect_str_eq(p[0].error.message, "two processes say they are rank 1");
    cr_expect_str_eq(p[1].error.message, "two processes say they are rank 1");
    cr_expect(strstr(p[2].error.message, "refuses rank 1 of 3"), "%s", p[2].error.message);

    path_of(meet);
    p[0] = (part){.place = {0, 3, meet, LONG_MS}};
    p[1] = (part){.place = {1, 2, meet, LONG_MS}, .late_ms = 50};
    run_parts(p, 2);
    cr_expect_str_eq(p[0].error.message, "ranks differ: rank 0 expects 3 ranks, rank 1 2");
    cr_expect_eq(p[1].status, SPC_EUSAGE);
}

/* Callers that say nothing, nonsense, or half a hello, and one that stays. */
static void *bother(void *user)
{
    spc_link_address at;
    int fd[4];

    cr_assert_eq(spc_link_resolve(user, false, &at, NULL), SPC_OK);
    wait_ms(50);
    for (int i = 0; i < 4; i++) fd[i] = spc_link_connect(&at, spc_awake_ms() + 1000);
    (void)spc_link_send(fd[1], "GET / HTTP/1.1\r\nHost: rank-zero\r\n\r\n", 36,
                        spc_awake_ms() + 1000);
    (void)spc_link_send(fd[2], "half", 4, spc_awake_ms() + 1000);
    spc_link_close(fd[3]);
    wait_ms(400);
    for (int i = 0; i < 3; i++) spc_link_close(fd[i]);
    return NULL;
}

Test(host_comm_boot, strangers_at_the_door_keep_nobody_waiting)
{
    char meet[SPC_LINK_TEXT];
    pthread_t stranger;
    part p[3];

    address_of(meet);
    for (int32_t r = 0; r < 3; r++) {
        p[r] = (part){.place = {r, 3, meet, LONG_MS}, .late_ms = 150 * r};
    }
    cr_assert_eq(pthread_create(&stranger, NULL, bother, meet), 0);
    run_parts(p, 3);
    (void)pthread_join(stranger, NULL);
    expect_met(p, 3);
}

/* Take all descriptors but so many, of few. */
static void take_files(int left)
{
    struct rlimit limit;
    int fd[64], count = 0;

    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 64;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    while ((fd[count] = dup(0)) >= 0) count++;
    cr_assert_geq(count, left);
    while (left-- > 0) (void)close(fd[--count]);
}

static double cpu_seconds(void)
{
    struct rusage used;

    cr_assert_eq(getrusage(RUSAGE_SELF, &used), 0);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}

/* Somebody comes, and there is no descriptor to let them in: not to be waited for by turning. */
Test(host_comm_boot, without_a_file_descriptor_at_the_door_it_is_told_and_no_core_is_kept_busy)
{
    char meet[SPC_LINK_TEXT];
    spc_link_address at;
    part p = {.late_ms = 0};
    pthread_t thread;
    double begun = cpu_seconds();

    address_of(meet);
    cr_assert_eq(spc_link_resolve(meet, false, &at, NULL), SPC_OK);
    p.place = (spc_place){0, 2, meet, 2000};
    cr_assert_eq(pthread_create(&thread, NULL, run_part, &p), 0);
    wait_ms(300); /* it listens */
    take_files(1);
    cr_assert_geq(spc_link_connect(&at, spc_awake_ms() + 1000), 0);
    (void)pthread_join(thread, NULL);
    cr_expect_lt(cpu_seconds() - begun, 0.5);
    cr_expect_eq(p.status, SPC_ENOMEM);
    cr_expect(strstr(p.error.message, "rank 0 could not let all 2 ranks in within 2000 ms: no file "
                                      "descriptor is left"),
              "%s", p.error.message);
}

/* Nor has the one that comes, who would blame rank 0. */
Test(host_comm_boot, without_a_file_descriptor_to_call_with_it_is_told)
{
    char meet[2][SPC_LINK_TEXT];

    address_of(meet[0]);
    path_of(meet[1]);
    write_file(meet[1], "");
    take_files(0);
    for (int way = 0; way < 2; way++) {
        part p = {.place = {1, 2, meet[way], SHORT_MS}};

        run_parts(&p, 1);
        cr_expect_eq(p.status, SPC_ENOMEM);
        cr_expect(strstr(p.error.message, "rank 0 within 300 ms: no file descriptor is left"), "%s",
                  p.error.message);
    }
    (void)unlink(meet[1]);
}

Test(host_comm_boot, places_that_cannot_be_are_refused)
{
    static const struct {
        spc_place place;
        spc_status status;
        const char *text;
    } cases[] = {
        {{0, 0, "a/b", 1}, SPC_EUSAGE, "ranks: expected 1 to 64, found 0"},
        {{0, 65, "a/b", 1}, SPC_EUSAGE, "ranks: expected 1 to 64, found 65"},
        {{2, 2, "a/b", 1}, SPC_EUSAGE, "rank: expected 0 to 1, found 2"},
        {{-1, 2, "a/b", 1}, SPC_EUSAGE, "rank: expected 0 to 1, found -1"},
        {{0, 2, "a/b", 0}, SPC_EUSAGE, "timeout: expected 1 ms or more"},
        {{0, 2, NULL, 1}, SPC_EUSAGE, "meet: expected HOST:PORT"},
        {{0, 2, "nowhere", 1}, SPC_EUSAGE, "meet: expected HOST:PORT, or a path with a '/'"},
        {{0, 2, "a:b", 1}, SPC_EUSAGE, "found 'a:b'"},
        {{1, 2, "127.0.0.1:70000", 1}, SPC_EUSAGE, "found '127.0.0.1:70000'"},
        {{1, 2, ":4711", 1}, SPC_EUSAGE, "found ':4711'"},
        {{0, 2, "127.0.0.1:0", 1}, SPC_EUSAGE, "expected a port of 1 to 65535"},
        {{1, 2, ":00", 1}, SPC_EUSAGE, "expected a port of 1 to 65535"},
        {{0, 2, "/no/such/folder/meet", 1}, SPC_EINPUT, "cannot be written"},
        {{0, 2, "/tmp", 1}, SPC_EINPUT, "meet /tmp: expected no file"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_boot *boot;
        spc_error error;

        cr_expect_eq(spc_boot_open(&cases[i].place, &boot, &error), cases[i].status, "%zu", i);
        cr_expect_null(boot);
        cr_expect(strstr(error.message, cases[i].text), "%s", error.message);
    }
    spc_boot_close(NULL);
}
