/* SPDX-License-Identifier: Apache-2.0 */
/* cli_place.c - which of several processes is this?  Options say so, or spc launch, or, where the
 * user says that it counts, the environment that mpirun and srun make. */
#include "cli.h"

#include "host/engine.h"
#include "host/ranks/comm.h"
#include "host/ranks/comm_boot.h"

#include <stdio.h>
#include <stdlib.h>

/* Who starts processes, and how each says a process's rank and their number. */
static const struct {
    const char *name, *rank, *world;
} starters[] = {{"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                {"MPICH", "PMI_RANK", "PMI_SIZE"},
                {"Slurm", "SLURM_PROCID", "SLURM_NTASKS"}};

enum { STARTERS = sizeof starters / sizeof *starters };

static spc_status read_number(const char *name, int64_t low, int64_t high, int32_t *out,
                              spc_error *err)
{
    const char *text = getenv(name);
    int64_t value;

    if (text && spc_cli_read_int(text, low, high, &value)) {
        *out = (int32_t)value;
        return SPC_OK;
    }
    return spc_error_set(err, SPC_EUSAGE, "%s: expected a whole number of %d to %d, found '%.40s'",
                         name, (int)low, (int)high, text ? text : "");
}

static spc_status read_pair(const char *rank, const char *world, spc_place *out, spc_error *err)
{
    spc_status status = read_number(world, 1, SPC_RANKS_MAX, &out->world, err);

    if (status == SPC_OK) status = read_number(rank, 0, out->world - 1, &out->rank, err);
    return status;
}

static spc_status read_starter(spc_place *out, spc_error *err)
{
    for (int i = 0; i < STARTERS; i++) {
        if (getenv(starters[i].rank)) {
            return read_pair(starters[i].rank, starters[i].world, out, err);
        }
    }
    return spc_error_set(err, SPC_EUSAGE,
                         "--ranks-from env: neither Open MPI (%s), MPICH (%s) nor Slurm (%s) has "
                         "started this process: give --rank, --world and --meet, or use spc launch",
                         starters[0].rank, starters[1].rank, starters[2].rank);
}

spc_status spc_cli_place(const spc_cli_ranks *ranks, const spc_cli_line *line, spc_place *out,
                         spc_error *err)
{
    static const char *const own[] = {"rank", "world", "meet", "ranks-from"};
    bool launched = getenv(SPC_CLI_ENV_RANK) != NULL, rank = spc_cli_given(line, "rank");
    spc_status status = SPC_OK;

    *out = (spc_place){0, 1, ranks->meet, (int32_t)(ranks->timeout * 1000)};
    for (int i = 0; launched && i < 4; i++) {
        if (!spc_cli_given(line, own[i])) continue;
        return spc_error_set(err, SPC_EUSAGE,
                             "--%s: spc launch has given this process its place: leave it out",
                             own[i]);
    }
    if (launched) {
        out->meet = getenv(SPC_CLI_ENV_MEET);
        status = read_pair(SPC_CLI_ENV_RANK, SPC_CLI_ENV_WORLD, out, err);
    } else if (ranks->from == 1) {
        if (rank || spc_cli_given(line, "world")) {
            return spc_error_set(err, SPC_EUSAGE,
                                 "--ranks-from env says rank and world: leave --%s out",
                                 rank ? "rank" : "world");
        }
        status = read_starter(out, err);
    } else if (rank || spc_cli_given(line, "world")) {
        if (!rank || !spc_cli_given(line, "world")) {
            return spc_error_set(err, SPC_EUSAGE, "--%s needs --%s", rank ? "rank" : "world",
                                 rank ? "world" : "rank");
        }
        out->rank = ranks->rank;
        out->world = ranks->world;
        if (out->rank >= out->world) {
            return spc_error_set(err, SPC_EUSAGE, "--rank: expected 0 to %d, found %d",
                                 (int)out->world - 1, (int)out->rank);
        }
    } else if (ranks->meet) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--meet needs --rank and --world, or --ranks-from env");
    } else if (spc_cli_given(line, "rank-timeout")) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--rank-timeout: this process is the only one: leave it out, or give "
                             "--rank, --world and --meet, or --ranks-from env, or use spc launch");
    }
    if (status == SPC_OK && out->world > 1 && !out->meet) {
        return spc_error_set(err, SPC_EUSAGE,
                             "%d ranks need --meet: HOST:PORT of rank 0, or a path that all see",
                             (int)out->world);
    }
    return status;
}

bool spc_cli_place_left(const spc_cli_ranks *ranks, const spc_cli_line *line, spc_place *out)
{
    static const char *const all[] = {"rank", "world", "meet", "ranks-from", "rank-timeout"};

    if (line->faults > 1 || getenv(SPC_CLI_ENV_RANK)) return false;
    for (int i = 0; i < 5; i++) {
        if (spc_cli_wrong(line, all[i])) return false;
    }
    return spc_cli_place(ranks, line, out, NULL) == SPC_OK && out->world > 1;
}

/* Rank 0 lets the others come, to tell them; any other comes, and leaves with its reason. */
static void tell_others(const spc_place *place, const spc_error *why)
{
    char text[SPC_ERROR_BYTES];
    spc_comm *comm;

    if (place->rank == 0) {
        spc_boot_refuse(place, why);
    } else if (spc_comm_tcp_open(place, &comm, NULL) == SPC_OK) {
        (void)snprintf(text, sizeof text, "rank %d: %.480s", (int)place->rank, why->message);
        comm->ops->abort(comm, text);
        spc_comm_close(comm);
    }
}

int spc_cli_place_fail(const spc_place *place, const spc_engine_options *options,
                       const spc_error *err)
{
    int code = spc_cli_fail(err); /* first: to meet the others may take a while */

    if (spc_engine_options_check(options, NULL) == SPC_OK) tell_others(place, err);
    return code;
}

bool spc_cli_place_ended(const spc_place *place, spc_status status)
{
    return place->world > 1 && status == SPC_EDEVICE && spc_cli_interrupted == SIGTERM;
}
