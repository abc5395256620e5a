/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - one of the two models before it is loaded: opened by name, planned, its tokenizer read,
 * its matrices changed. */
#include "engine.h"
#include "host/cpu/cpu_threads.h"
#include "thread.h"

#include "weights/bundle_tokenizer.h"
#include "weights/demo/demo.h"
#include "weights/int8.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <pthread.h>
#include <string.h>

spc_status spc_open_bundle(const char *name, spc_bundle **out, spc_error *err)
{
    spc_blob files[SPC_DEMO_FILES];
    int32_t count = 0;

    *out = NULL;
    if (strncmp(name, "embedded:", 9) != 0) return spc_bundle_open(name, out, err);
    if (spc_demo_files(SPC_DEMO_VERIFIER, files) == 0) {
        return spc_error_set(err, SPC_EMODEL,
                             "%s: this build has no embedded models (SPC_EMBED=OFF): name a folder "
                             "of a checkpoint or a GGUF file",
                             name);
    }
    if (strcmp(name, SPC_EMBEDDED_DRAFTER) == 0) count = spc_demo_files(SPC_DEMO_DRAFTER, files);
    if (strcmp(name, SPC_EMBEDDED_VERIFIER) == 0) count = spc_demo_files(SPC_DEMO_VERIFIER, files);
    if (count == 0) {
        return spc_error_set(err, SPC_EMODEL,
                             "%s: no such embedded model in this build; known: %s, %s", name,
                             SPC_EMBEDDED_DRAFTER, SPC_EMBEDDED_VERIFIER);
    }
    return spc_bundle_open_memory(name, files, count, out, err);
}

spc_status spc_open_model(const char *name, spc_model *model, spc_error *err)
{
    spc_status status = spc_open_bundle(name, &model->bundle, err);

    if (status == SPC_OK) status = spc_config_read(model->bundle, &model->config, err);
    if (status != SPC_OK) return status;
    status = spc_plan_build(&model->config, name, &model->plan, err);
    if (status == SPC_OK) spc_plan_read_blocks(model->plan, model->bundle);
    return status;
}

static void share_out(void *team, int32_t count, int32_t grain, spc_share_fn share, void *user)
{
    spc_team_run(team, count, grain, share, user);
}

/* Is it a matrix that could be quantised, or is? */
static bool is_matrix(const spc_weight *w)
{
    return w->cols > 0 && w->relative == SPC_RELATIVE_NONE;
}

static void warn_of_quantised(const spc_model *model, spc_log_fn log, void *user)
{
    int32_t matrices = 0, kept = 0;
    char line[320];

    for (int32_t i = 0; i < model->plan->weight_count; i++) {
        const spc_weight *w = &model->plan->weight[i];
        const spc_tensor *t = is_matrix(w) ? spc_bundle_find(model->bundle, w->name) : NULL;

        if (!t) continue;
        matrices++;
        kept +=
            t->dtype != SPC_DTYPE_F32 && t->dtype != SPC_DTYPE_F16 && t->dtype != SPC_DTYPE_BF16;
    }
    if (kept == 0) return;
    (void)snprintf(line, sizeof line,
                   "warning: %.150s: weights int8: %d of %d matrices are quantised already, and "
                   "stay as they are",
                   spc_bundle_where(model->bundle), (int)kept, (int)matrices);
    log(user, line);
}

spc_status spc_check_weights(const char *weights, spc_error *err)
{
    if (!weights || strcmp(weights, "int8") == 0) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE, "weights: expected int8, found '%.40s'", weights);
}

spc_status spc_change_weights(spc_model *model, const char *weights, int32_t threads,
                              spc_log_fn log, void *user, spc_error *err)
{
    spc_sharing sharing = {share_out, NULL};
    spc_team *team;
    spc_status status = spc_check_weights(weights, err);

    if (status != SPC_OK || !weights) return status;
    if (log) warn_of_quantised(model, log, user);
    status = spc_team_open(threads, &team, err);
    sharing.team = team;
    for (int32_t i = 0; i < model->plan->weight_count && status == SPC_OK; i++) {
        const spc_weight *w = &model->plan->weight[i];

        if (!is_matrix(w)) continue;

        const spc_tensor *t = spc_bundle_find(model->bundle, w->name);
        uint64_t bytes = t ? t->bytes : 0;

        status = spc_int8_quantise(model->bundle, w->name, &sharing, err);
        spc_meter_took(model->meter, bytes);
    }
    spc_team_close(team);
    if (status == SPC_OK) spc_plan_read_blocks(model->plan, model->bundle); /* of new types */
    return status;
}

/* Reading a tokenizer takes some ten times its bytes, which the heap would keep. */
static void trim_heap(void)
{
#ifdef __GLIBC__
    (void)malloc_trim(0);
#endif
}

typedef struct {
    spc_model *model;
    spc_tokenizer *out;
    spc_status status;
    spc_error error;
} reading;

static void *read_tokenizer(void *user)
{
    reading *r = user;

    if (!spc_bundle_has_file(r->model->bundle, "tokenizer.json")) return NULL;
    r->status = spc_bundle_tokenizer(r->model->bundle, &r->out, &r->error);
    return NULL;
}

spc_status spc_open_tokenizer(spc_model *model, spc_tokenizer **out, spc_error *err)
{
    reading r = {.model = model};

    (void)read_tokenizer(&r);
    trim_heap();
    *out = r.out;
    if (r.status != SPC_OK && err) *err = r.error;
    return r.status;
}

spc_status spc_open_tokenizers(spc_model *const *model, spc_tokenizer **out, spc_error *err)
{
    reading first = {.model = model[0]}, second = {.model = model[1]};
    bool same = false, beside = false;
    spc_status status = SPC_OK;
    pthread_t thread;

    out[0] = out[1] = NULL;
    if (model[1]) {
        status = spc_bundle_same_tokenizer(model[0]->bundle, model[1]->bundle, &same, err);
    }
    if (status != SPC_OK) return status;
    if (model[1] && !same) beside = spc_thread_start(&thread, read_tokenizer, &second);
    (void)read_tokenizer(&first);
    if (beside) (void)pthread_join(thread, NULL);
    if (same) second.out = first.out;
    if (model[1] && !same && !beside) (void)read_tokenizer(&second); /* no thread to be had */
    trim_heap();
    out[0] = first.out;
    out[1] = second.out;
    if (first.status == SPC_OK && second.status == SPC_OK) return SPC_OK;
    spc_close_tokenizers(out);
    out[0] = out[1] = NULL;
    if (err) *err = first.status != SPC_OK ? first.error : second.error;
    return first.status != SPC_OK ? first.status : second.status;
}

void spc_close_tokenizers(spc_tokenizer *const *tokenizer)
{
    if (tokenizer[1] != tokenizer[0]) spc_tokenizer_close(tokenizer[1]);
    spc_tokenizer_close(tokenizer[0]);
}

void spc_close_model(spc_model *model)
{
    spc_plan_close(model->plan);
    spc_bundle_close(model->bundle);
}
