/* SPDX-License-Identifier: Apache-2.0 */
/* server.c - many users, one engine: their threads hand requests in, one thread steps all sessions.
 *
 * A step of all sessions together reads the weights once for all of them.  There are more users
 * than slots: sessions that find none begin as others end (option wait), and the thread that steps
 * need not know.  The last user leaves in the middle of his text. */
#include <spc/spc.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { USERS = 5, SLOTS = 2, TEXT_MOST = 1024 };

/* What becomes of one prompt.  Under the server's lock. */
typedef struct request {
    const char *prompt;
    spc_session *session; /* from when it has been opened until it is about to be closed */
    char text[TEXT_MOST];
    size_t bytes;
    bool leaves, ended;
    spc_error error;
    struct server *server;
    struct request *behind;
} request;

/* The engine's lock is held where text arrives, and then this one is taken: who holds this one
 * makes no call that waits for the engine's. */
typedef struct server {
    spc_engine *engine;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    request *first; /* nobody has opened them yet */
    bool stop;      /* when all requests have ended */
} server;

/* ---- the thread that steps --------------------------------------------------------------------
 */

/* Text has to wait for nobody: all sessions do as long as this takes. */
static void on_text(void *user, const char *text, size_t bytes)
{
    request *r = user;

    (void)pthread_mutex_lock(&r->server->lock);
    if (bytes > TEXT_MOST - r->bytes) bytes = TEXT_MOST - r->bytes;
    memcpy(r->text + r->bytes, text, bytes);
    r->bytes += bytes;
    (void)pthread_cond_broadcast(&r->server->changed);
    (void)pthread_mutex_unlock(&r->server->lock);
}

static void end(request *r, const spc_error *error)
{
    spc_session *session;

    (void)pthread_mutex_lock(&r->server->lock);
    session = r->session;
    r->session = NULL; /* nobody can cancel it any more */
    if (error) r->error = *error;
    r->ended = true;
    (void)pthread_cond_broadcast(&r->server->changed);
    (void)pthread_mutex_unlock(&r->server->lock);
    spc_session_close(session);
}

static spc_session *begin(request *r)
{
    spc_engine *engine = r->server->engine;
    spc_session_options options;
    spc_session *session = NULL;
    int32_t *ids = NULL, count;
    spc_error error;

    spc_session_options_init(&options);
    options.rule = "token-v3:alpha=0.3";
    options.temperature = 0.0f;
    options.wait = true;
    options.on_text = on_text;
    options.user = r;
    if (spc_engine_encode(engine, r->prompt, strlen(r->prompt), false, &ids, &count, &error) ||
        spc_session_open(engine, &options, ids, count, &session, &error)) {
        end(r, &error);
    } else {
        (void)pthread_mutex_lock(&r->server->lock);
        r->session = session;
        (void)pthread_mutex_unlock(&r->server->lock);
    }
    free(ids);
    return session;
}

static void *serve(void *user)
{
    server *v = user;
    request *asked[USERS], *r;
    spc_session *session[USERS];
    int32_t count = 0, left;

    for (;;) {
        (void)pthread_mutex_lock(&v->lock);
        while (!v->first && count == 0 && !v->stop) (void)pthread_cond_wait(&v->changed, &v->lock);
        r = v->first;
        v->first = NULL;
        (void)pthread_mutex_unlock(&v->lock);
        if (!r && count == 0) return NULL;
        for (request *behind; r; r = behind) {
            behind = r->behind; /* it may end here, and then is its user's */
            session[count] = begin(r);
            asked[count] = r;
            count += session[count] != NULL;
        }
        (void)spc_engine_step(v->engine, session, count, NULL); /* each keeps its own error */
        left = 0;
        for (int32_t i = 0; i < count; i++) {
            if (spc_session_finish(session[i]) != SPC_FINISH_RUNNING) {
                end(asked[i], spc_session_error(session[i]));
                continue;
            }
            session[left] = session[i];
            asked[left++] = asked[i];
        }
        count = left;
    }
}

/* ---- the threads of users ---------------------------------------------------------------------
 */

/* Ask, and read until it ends; or, for one who leaves, until the first words are there. */
static void *ask(void *user)
{
    request *r = user, **last;
    server *v = r->server;

    (void)pthread_mutex_lock(&v->lock);
    for (last = &v->first; *last;) last = &(*last)->behind;
    *last = r;
    (void)pthread_cond_broadcast(&v->changed);
    while (!r->ended) {
        if (r->leaves && r->bytes > 0 && r->session) spc_session_cancel(r->session);
        (void)pthread_cond_wait(&v->changed, &v->lock);
    }
    (void)pthread_mutex_unlock(&v->lock);
    return NULL;
}

int main(void)
{
    static const char *const prompts[USERS] = {
        "<s><2de>The children are playing in the garden.<sep>",
        "<s><2es>The children are playing in the garden.<sep>",
        "<s><2fr>The children are playing in the garden.<sep>",
        "<s><2de>We forgot to close the window last night.<sep>",
        "<s><2de>Where did you buy that blue coat, and where did you buy those shoes?<sep>"};
    server v = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    request requests[USERS] = {{0}};
    pthread_t user[USERS], stepper;
    spc_engine_options options;
    spc_error error;
    int failed = 0;

    spc_engine_options_init(&options);
    options.sessions = SLOTS;
    if (spc_engine_open(&options, &v.engine, &error)) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    if (pthread_create(&stepper, NULL, serve, &v)) return 1;
    for (int i = 0; i < USERS; i++) {
        requests[i].prompt = prompts[i];
        requests[i].server = &v;
        requests[i].leaves = i == USERS - 1;
        if (pthread_create(&user[i], NULL, ask, &requests[i])) return 1;
    }
    for (int i = 0; i < USERS; i++) (void)pthread_join(user[i], NULL);
    (void)pthread_mutex_lock(&v.lock);
    v.stop = true;
    (void)pthread_cond_broadcast(&v.changed);
    (void)pthread_mutex_unlock(&v.lock);
    (void)pthread_join(stepper, NULL);
    spc_engine_close(v.engine);
    for (int i = 0; i < USERS; i++) {
        request *r = &requests[i];

        failed += r->error.status != SPC_OK;
        printf("%.*s\n", r->error.status ? (int)sizeof r->error.message : (int)r->bytes,
               r->error.status ? r->error.message : r->text);
    }
    return failed > 0;
}
