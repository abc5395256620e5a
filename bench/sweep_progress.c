/* SPDX-License-Identifier: Apache-2.0 */
/* sweep_progress.c - how far a sweep is, on stderr. */
#include "bench/measure.h"
#include "bench/sweep.h"

#include <string.h>
#include <unistd.h>

enum { BAR = 24 };

void sweep_progress_begin(sweep_progress *p, int32_t points, int32_t done)
{
    *p = (sweep_progress){points, done, 0, measure_now_ns(), 0, "", isatty(STDERR_FILENO) == 1};
}

/* "about 3 min left", from the points of this run so far. */
static void left_of(const sweep_progress *p, double share, char text[40])
{
    double passed = (double)(measure_now_ns() - p->begin) * 1e-9, ran = p->ran + share;
    double left = ran > 0.0 ? passed / ran * (p->points - p->done - share) : 0.0;

    text[0] = '\0';
    if (!(ran > 0.0)) return;
    (void)snprintf(text, 40, left < 90.0 ? ", about %.0f s left" : ", about %.0f min left",
                   left < 90.0 ? left : left / 60.0);
}

void sweep_progress_tell(void *progress, double share)
{
    sweep_progress *p = progress;
    uint64_t now = measure_now_ns();
    char bar[BAR + 1], left[40];
    int32_t full;

    if (!p->terminal || now - p->told < 200000000u) return;
    p->told = now;
    full = (int32_t)(BAR * (p->done + share) / p->points);
    memset(bar, '.', BAR);
    memset(bar, '#', (size_t)(full < BAR ? full : BAR));
    bar[BAR] = '\0';
    left_of(p, share, left);
    (void)fprintf(stderr, "\r\033[K[%s] %d of %d points, %s %.0f %%%s", bar, (int)p->done,
                  (int)p->points, p->rule, 100.0 * share, left);
    (void)fflush(stderr);
}

void sweep_progress_point(sweep_progress *p, const json_t *line)
{
    const json_t *calls = json_object_get(line, "verifier_calls_per_token");
    const char *failed = json_string_value(json_object_get(line, "failed"));
    char left[40];

    p->done++;
    p->ran++;
    if (p->terminal) return;
    left_of(p, 0.0, left);
    (void)fprintf(stderr, "%d of %d points: %s gamma %d: ", (int)p->done, (int)p->points,
                  json_string_value(json_object_get(line, "rule")),
                  (int)json_integer_value(json_object_get(line, "gamma")));
    if (failed) {
        (void)fprintf(stderr, "failed: %s%s\n", failed, left);
        return;
    }
    (void)fprintf(stderr, "%s %.2f, %.3f verifier calls per token%s\n",
                  json_string_value(json_object_get(line, "metric")),
                  json_number_value(json_object_get(line, "value")), json_number_value(calls),
                  left);
}

void sweep_progress_end(const sweep_progress *p)
{
    if (p->terminal) (void)fprintf(stderr, "\r\033[K");
}
