/* SPDX-License-Identifier: Apache-2.0 */
/* queue.cu - drawing and verification in one launch, spread over the whole device tile by tile.
 *
 * As many blocks as fit stay for the whole launch.  First they take tickets: tile after tile of
 * the rows that every sequence will look at, sequence after sequence, and leave the statistics of
 * each tile in the workspace.  A row that is cut (top-k, top-p, min-p) then goes on by itself,
 * stage by stage (cut.cuh): whoever brings the last tile of a stage begins the next.
 *
 * A block that finds no ticket any more takes a sequence, in their order, gets ready for it, and
 * decides it when all its tiles are there: it runs rules/round_body.h, whose sums over whole rows
 * (a residual, eta, a distance) are jobs of as many tiles (jobs.cuh); sums that every row is asked
 * for are begun for all rows together.  Blocks without a sequence take pieces of jobs, and so do
 * those whose sequence is not there yet; those that have tickets do so between two of them, about
 * as many as there are pieces.
 *
 * No block decides while it has tickets: the sequences that they are of would wait for it, their
 * blocks for theirs, and the launch for a chain of decisions.
 *
 *   workspace.cuh             what blocks share in device memory, and a block in shared memory
 *   stage.cuh, staged.cuh     tiles on their way into a block
 *   first.cuh, tile_sums.cuh  tickets, and the statistics of their tiles
 *   cut.cuh, cut_tiles.cuh    rows that are cut
 *   jobs.cuh, pieces.cuh      jobs and their pieces; fold.cuh sums over a pair of rows
 *   decide.cuh, sequence.cuh  what round_body.h asks for; a sequence from its claim to its tokens
 *
 * Who computes a tile does not matter: a tile's numbers are final, and are added from left to
 * right by whoever needs the sum.  So the result has the bits of the reference (verify.cu),
 * whatever the grid, the batch and the order of blocks.
 *
 * Every wait ends, whichever blocks are on the device, and were it one (another kernel, or another
 * process, may have the rest): who waits, waits for what a running block is about, and of those one
 * always can go on.
 *   a block with tickets             waits for nobody
 *   with a piece of a job            for nobody; what comes next for a row that is cut it posts
 *   that has taken a sequence        for its tiles.  All tickets are taken then, by running blocks;
 *                                    pieces of rows that are cut it takes itself meanwhile
 *   that has one that is all there   for a job to decide with: they are as many as sequences, but
 *                                    128 at most.  Those who have one decide their sequence first
 *   that decides                     for sums: it takes all pieces that nobody has taken
 *   any other                        until all are decided
 * A block that begins when all tickets are taken is one of the last kind; no block's number, and no
 * order in which they begin, means anything.  Jobs that are open wait for whoever has time: at the
 * end all blocks do.
 *
 * Bytes: each row of the first pass once from memory.  What is read again, one pair of rows of a
 * sequence for most rules, is read when the first pass has ended, or ends: from L2 as far as that
 * holds it, of 64 sequences of five rows of 128256 bf16 logits (82 MB) about half.  All rows of a
 * sequence are cut, also those behind the first rejection: which one that is, only cut rows can
 * tell, and one after the other they would take as many steps as there are rows.
 *
 * Steps in a row, counted, not measured: none of this has been timed on a device.  G drafts, the
 * drafter's statistics given; a step is a job that has to end before the next can begin.
 *
 *                                   one sequence, behind its last tile of the first pass
 *   strict, lossy, diff, bild       1: the residual, or the statistics of the bonus row
 *     with a bonus from the target  3: statistics of both rows, the target
 *   token rules                     1, and 1 for eta at each draft outside the set up to the end
 *   opt, fuzzy, their log forms     2: all distances together, the residual
 *   block, strict                   2: all residual masses together (none when the last coin keeps
 *                                      the whole draft), the residual
 *   block, opt or token rules       3: all distances or all eta before
 *   cut by top-p, bf16              2 or 3 more for all rows together: 1 or 2 levels, the sums
 *   cut by top-p, fp32              4 or 5 more: 3 or 4 levels
 *   cut by top-k                    as many levels more
 *   lossy with beta solved,         some tens: each of Newton's steps is one
 *   mentored
 *
 *                                   looks at the rows of the first pass, from L2 but for the first
 *   not cut                         1, and 1 or 2 of the row of the residual
 *   cut by top-p                    3 or 4; an entry outside the bins, or cut, costs two
 * comparisons, a tile without entries inside is not read
 *
 * A ticket is for up to four tiles of a row.  Around a ticket: one atomic addition, asked for a
 * ticket ahead, another for its arrival and a fence (of smaller tickets several share one),
 * answered during the next; one look at the number of open jobs; one trip to memory and some 250
 * instructions of one thread that say what the row is, which the block waits for.  Of bf16 two
 * tiles take about 345 of each thread, or 515 where two sums are asked for, otherwise one takes
 * about 270 or 335; a ticket takes about 180 more: these are sm_90a's, counted.  An H100's memory
 * leaves time for 274 a tile of bf16 at 3.35 TB/s, were every cycle used, so that they matter as
 * much as bytes do.  A block has two stages of 16 KB, with one of them under way, 16 bytes a thread
 * and copy: where about 15 KB for each multiprocessor keep the memory of an H100 busy, four blocks
 * have 64 KB of bf16.  Around a piece of a job: a look at all jobs, unless one alone is open, an
 * atomic addition (two where it is no fold) and two fences.
 *
 * Trips to memory that a sequence waits for, one behind the other, behind the sums of its last
 * tile: its write, its arrival, which the block that waits sees, and the partials of all its rows:
 * three; what the batch says of the sequence and the logits of drafts are there before.  A fold:
 * its text is written, an idle block sees it, claims a piece, reads the text and both rows, and its
 * sum is seen: six, and one for the tile that is drawn.  Then the answer is written, while the
 * others leave.
 *
 * Of the code (590 KB on sm_90a) a launch runs little: of one sequence by strict, counted in PTX,
 * 1500 instructions where tickets are taken and 4500 where it is decided, most of them once.  What
 * does not run is in nobody's way. */
#include "launch.h"

#include "sequence.cuh"

template <typename Batch> struct queue_args {
    Batch b;
    queue q;
};

/* ---- the kernel -------------------------------------------------------------------------------
 */

/* A job with pieces to take, or -1; blocks begin to look at different places. */
static __device__ int32_t open_job(void)
{
    const queue *q = &scratch.q;
    const int32_t jobs = q->deciders + q->ahead; /* that the batch uses */
    uint32_t best = ~0u;

    static_assert(SPC_QUEUE_JOBS < 1 << 16, "a place and a job in a word");
    for (int32_t i = (int32_t)threadIdx.x; i < jobs; i += SPC_LANES) {
        const int32_t from = i + (int32_t)blockIdx.x * 37;
        const int32_t job = from - quotient(from, q->by_jobs) * jobs;
        const int32_t slot = job < q->deciders ? job : SPC_QUEUE_DECIDERS + job - q->deciders;

        if (best == ~0u && fresh(q->left + slot) > 0) best = (uint32_t)(i << 16 | slot);
    }
    best = ~block_top(&scratch.block, ~best);
    return best == ~0u ? -1 : (int32_t)(best & 0xffffu);
}

enum { ANY_JOB = -1 };

/* Take a piece of the job `latest`, if there are some, or of any.  false: none was open. */
static __device__ __noinline__ bool serve(int32_t latest)
{
    int32_t slot = latest, claim = latest != ANY_JOB ? claim_piece(latest, false) : 0;

    if (claim <= 0) {
        slot = open_job();
        if (slot < 0) return false;
        claim = claim_piece(slot, false);
        if (claim <= 0) return true; /* others were faster */
    }
    read_text(slot);
    run_piece(slot, claim - 1);
    if (scratch.job.kind == JOB_FOLD) return true;
    if (threadIdx.x == 0) {
        const int32_t before = atomicAdd(&job_of(&scratch.q, slot)->done, 1);

        scratch.claim =
            scratch.job.row != NO_ROW && before == pieces_of(&scratch.q, scratch.job.piece) - 1;
        if (scratch.claim) fence_blocks();
    }
    __syncthreads();
    if (scratch.claim) go_on(slot);
    return true;
}

/* Around a ticket a block asks the others for something: in a thread each, of warps that do not
 * find out what the next ticket is for.  What is on its way meanwhile does not wait for the
 * answers. Tiles are announced a few at a time, so that a block waits for its writes once for all
 * of them. */
enum { ASKS_TICKET = WARP, ASKS_OPEN, ANNOUNCES = 2 * WARP };

/* Behind a barrier after the last tile of `count` tickets was written: for a ticket's thread, how
 * many tiles of its row were there, if that is cut, or else of its sequence.  For other threads,
 * the next number of `counter`, and how many jobs are open. */
static __device__ __forceinline__ int32_t ask_others(int32_t count, uint32_t *counter)
{
    const int32_t i = (int32_t)threadIdx.x - ANNOUNCES;
    int32_t *at, by;

    if (threadIdx.x == ASKS_OPEN) return fresh(&scratch.q.all->open);
    if (i >= 0 && i < count) {
        const arrival *one = &scratch.arrivals[i];

        fence_blocks();
        at = one->cut ? &scratch.q.cells[one->row].arrived : &scratch.q.cells[one->sequence].ripe;
        by = one->brought;
    } else if (threadIdx.x == ASKS_TICKET) {
        at = (int32_t *)counter;
        by = 1;
    } else {
        return 0;
    }
    /* one addition for all: one of a number that is known the compiler gathers over the threads of
     * a warp, even where there is one, and hands its answer on at once, for which it would wait */
    return atomicAdd(at, by);
}

/* The answers of an announcement.  Behind the next barrier all threads may read the tiles of a row
 * that is cut and complete: the others are for who decides their sequence. */
static __device__ __forceinline__ void note_finished(int32_t count, int32_t before)
{
    const int32_t i = (int32_t)threadIdx.x - ANNOUNCES;

    if (i < 0 || i >= ARRIVALS || count == 0) return;
    scratch.finished[i].row = NO_ROW;
    if (i < count && scratch.arrivals[i].cut &&
        before == scratch.q.tiles - scratch.arrivals[i].brought) {
        fence_blocks();
        scratch.finished[i] = scratch.arrivals[i];
    }
}

/* A ticket was brought: by the thread that will announce it. */
static __device__ __forceinline__ void note_brought(int32_t i, const first_run *run)
{
    if ((int32_t)threadIdx.x != ANNOUNCES + i) return;
    scratch.arrivals[i] = {(int32_t)row_of(&scratch.q, run->sequence, run->row), run->sequence,
                           run->end - run->tile, run->needs,
                           run->wanted && scratch.q.tiles > 1 && is_cut(run->needs)};
}

/* Behind a barrier after note_finished of some. */
static __device__ bool has_finished(void)
{
    bool any = false;

    for (int i = 0; i < ARRIVALS; i++) any |= scratch.finished[i].row != NO_ROW;
    return any;
}

template <typename Batch> static __device__ __noinline__ void finish_noted(const Batch *b)
{
    for (int i = 0; i < ARRIVALS; i++) {
        if (scratch.finished[i].row != NO_ROW) finish_row(b, i);
    }
}

/* Is it this block's turn to take a piece of what is open?  About as many blocks as there are
 * tiles should look while each sums one. */
static __device__ bool may_serve(int32_t open, uint32_t ticket)
{
    const uint32_t tiles = (uint32_t)open * (uint32_t)scratch.q.tiles;

    return open > 0 && (ticket * 2654435761u >> 8) % gridDim.x < tiles;
}

static __device__ __forceinline__ void note_answers(const first_run *run, int32_t announced,
                                                    int32_t answer)
{
    if (threadIdx.x == ASKS_TICKET) scratch.ticket = (uint32_t)answer;
    if (threadIdx.x == ASKS_OPEN) scratch.open = may_serve(answer, run->ticket);
    note_finished(announced, answer);
}

/* Between two tickets of the first pass: rows that are complete, and a piece of a job.  Where the
 * block is waits in shared memory: what lives across these calls would spill, at every ticket. */
template <typename Batch>
static __device__ void break_first(const Batch *b, first_place at, bool finishes, bool serves)
{
    wait_fetch<0>();
    if (threadIdx.x == 0) scratch.at = at;
    __syncthreads();
    if (finishes) finish_noted(b);
    if (serves) (void)serve(ANY_JOB);
    __syncthreads();
}

/* The tiles of the ticket that the block has, of which the first is on its way.  While one is
 * summed the next is: the last one's is the first of the following ticket.  Asks the others, and
 * notes their answers.  where: place and turn, in one word, of which nothing is left to arrive when
 * the others are asked: to wait for it would be to wait for their answers.  Returns the stage of
 * the tile that is on its way then. */
template <typename Batch>
static __device__ __noinline__ int32_t sum_run(const Batch *b, uint32_t following, uint32_t where,
                                               int32_t announced)
{
    const int32_t place = (int32_t)(where & 1u);
    const first_run *run = &scratch.run[place];
    int32_t turn = (int32_t)(where >> 1);
    const int32_t vocab = scratch.q.vocab, last = run->end - 1;
    const bool wanted = run->wanted;
    const int32_t answer = ask_others(announced, &scratch.q.all->ticket);
    int32_t entries = run->entries;

    for (int32_t tile = wanted ? run->tile : last; tile <= last;) {
        const int32_t tiles = wanted ? tiles_at(run, tile) : 1;
        int32_t next = 0;

        if (tile + tiles <= last) {
            next = ask_run(run, vocab, tile + tiles, 1 - turn);
        } else if (following < scratch.total) {
            load_first(b, following, 1 - place, 1 - turn, false);
        }
        end_fetch();
        if (wanted) wait_fetch<1>();
        if (!wanted) {
            __syncthreads(); /* all have read what is written next */
        } else if (tiles == 2) {
            __syncthreads();
            sum_two(place, tile, turn);
        } else {
            sum_one(place, tile, turn, entries);
        }
        entries = next;
        turn = 1 - turn;
        tile += tiles;
    }
    note_answers(run, announced, answer);
    return turn;
}

/* Jobs take the place of the tile that is on its way: behind one it is asked for again.  What a
 * ticket is for lies in shared memory: in registers it would not leave room for the sums. */
template <typename Batch> static __device__ void first_pass(const Batch *b)
{
    const queue *q = &scratch.q;
    first_place at = {0, 0, 0, 0, 0};

    at.ticket = scratch.ticket;
    if (at.ticket < scratch.total) load_first(b, at.ticket, at.place, at.turn, false);
    end_fetch();
    __syncthreads();
    if (at.ticket < scratch.total) { /* not with the first: few tickets go to many blocks */
        if (threadIdx.x == 0) scratch.ticket = atomicAdd(&q->all->ticket, 1u);
        __syncthreads();
    }
    at.following = scratch.ticket;
    while (at.ticket < scratch.total) {
        const int32_t announced = at.brought * q->piece >= ARRIVALS ? at.brought : 0;

        at.turn = sum_run(b, at.following, (uint32_t)(at.place + 2 * at.turn), announced);
        at.brought -= announced;
        note_brought(at.brought, &scratch.run[at.place]);
        at.brought++;
        __syncthreads();
        at.ticket = at.following;
        at.following = scratch.ticket;
        at.place = 1 - at.place;

        const bool finishes = announced > 0 && has_finished();

        if (finishes || scratch.open) {
            break_first(b, at, finishes, scratch.open != 0);
            at = scratch.at;
            if (at.ticket < scratch.total) load_first(b, at.ticket, at.place, at.turn, true);
            end_fetch();
            __syncthreads(); /* the first tile's entries are there */
        }
    }
    __syncthreads(); /* all have looked at what was finished */

    const int32_t answer = ask_others(at.brought, &scratch.q.all->next);

    if (threadIdx.x == ASKS_TICKET) scratch.mine = answer;
    note_finished(at.brought, answer);
    __syncthreads();
    if (at.brought > 0) finish_noted(b);
}

/* Until all sequences are decided: decide those that fall to this block, work where there is some.
 */
template <typename Batch> static __device__ void help(const Batch *b, int32_t live)
{
    if (scratch.mine < live) take_sequence(b, scratch.mine);
    for (;;) {
        __syncthreads();
        if (threadIdx.x == 0) {
            const uint4 now = fresh_words(&scratch.q.all->decided);

            scratch.ripe = scratch.mine < live && is_ripe(b, scratch.mine);
            scratch.claim = now.x < (uint32_t)live;
            scratch.open = (int32_t)now.y;
            scratch.latest = now.y == 1 ? (int32_t)now.z : ANY_JOB;
        }
        __syncthreads();
        if (!scratch.claim) return;
        if (scratch.ripe) {
            decide(b, scratch.mine, live);
            if (scratch.gone != STAYS) return;
            if (scratch.mine < live) take_sequence(b, scratch.mine);
        } else if (scratch.open <= 0 || !serve(scratch.latest)) {
            __nanosleep(64);
        }
    }
}

template <typename Batch>
static __global__ void __launch_bounds__(SPC_LANES, BLOCKS_PER_SM)
    queue_kernel(const __grid_constant__ queue_args<Batch> a)
{
    uint32_t first = 0; /* the block's first ticket: on its way while all else is made ready */

    if (threadIdx.x == 0) first = atomicAdd(&a.q.all->ticket, 1u);

    const int32_t live = spc_live(a.b.live, a.b.sequences), i = (int32_t)threadIdx.x;
    const Batch *b = (const Batch *)&scratch.batch;

    static_assert(sizeof(Batch) % 4 == 0 && sizeof(Batch) / 4 <= SPC_LANES, "a thread a word");
    if (i < (int32_t)sizeof(Batch) / 4) {
        ((uint32_t *)&scratch.batch)[i] = ((const uint32_t *)&a.b)[i];
    }
    if (i < WARP) {
        scratch.word_of_input[i] = input_of(&a.b, i);
        guess_input(&a.q, a.b.sequences);
    }
    if (threadIdx.x == 0) {
        scratch.q = a.q;
        scratch.job.pair.round = &scratch.helper;
        scratch.helper = {};
        scratch.helper.params = &scratch.job.params;
        scratch.helper.vocab = a.q.vocab;
        scratch.ticket = first;
        scratch.gone = STAYS;
        scratch.total = (uint32_t)live * (uint32_t)(a.q.rows * a.q.runs);
    }
    __syncthreads();
    if (live > 0) {
        first_pass(b);
        help(b, live);
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    if (scratch.gone == STAYS) scratch.gone = (int32_t)atomicAdd(&a.q.all->gone, 1u);
    if (scratch.gone == (int32_t)gridDim.x - 1) {
        /* for the next launch; all additions have come to memory, for those who made them have seen
         * the answers, and of `decided` somebody the last: not all leave early */
        atomicExch(&a.q.all->ticket, 0u);
        atomicExch(&a.q.all->next, 0u);
        atomicExch(&a.q.all->decided, 0u);
        atomicExch(&a.q.all->gone, 0u);
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

static void take_at_once(queue *q, int32_t piece)
{
    q->piece = piece;
    q->runs = (q->tiles + piece - 1) / piece;
    q->by_runs = divisor_of(q->runs);
}

static queue queue_in(void *workspace, int32_t sequences, int32_t rows, int32_t vocab)
{
    char *at = (char *)workspace;
    queue q;

    q.rows = rows;
    q.tiles = spc_tile_count(vocab);
    q.vocab = vocab;
    q.deciders = spc_queue_deciders(sequences);
    q.ahead = spc_queue_ahead(sequences, rows);
    q.records = (int64_t)sequences * rows * q.tiles;
    q.parts =
        q.records + (q.tiles > 1 ? (int64_t)sequences * rows * (int32_t)SPC_QUEUE_RECORD_CELLS : 0);
    q.all = (control *)at;
    q.left = (int32_t *)(at += SPC_QUEUE_HEADER_BYTES);
    q.jobs = at += SPC_QUEUE_JOBS * sizeof(int32_t);
    q.bins = (uint64_t *)(at += SPC_QUEUE_JOBS * SPC_QUEUE_JOB_BYTES);
    q.cells = (cell *)(at + SPC_QUEUE_JOBS * SPC_CUT_BINS * sizeof(uint64_t));
    q.by_rows = divisor_of(rows);
    q.by_jobs = divisor_of(q.deciders + q.ahead);
    take_at_once(&q, 1);
    return q;
}

/* Tiles of a row that are taken at once: one where every block has one at most; two, which may cost
 * little more than one, while blocks have few; four where what a block does around a ticket (what
 * is the row, is there work) weighs more than that some have one more than others. */
static int32_t tiles_at_once(int64_t tiles, int32_t blocks)
{
    return tiles <= blocks ? 1 : tiles / blocks < 12 ? 2 : 4;
}

/* As many blocks as a device has room for at a time.  Others would begin when all is done, only to
 * find that it is.  reserved: of a block's shared memory, by the device. */
static cudaError_t most_blocks(int32_t *most)
{
    const int32_t reserved = 1024, each = (int32_t)sizeof(queue_scratch) + reserved;
    int device = 0, processors = 0, shared = 0;
    cudaError_t code = cudaGetDevice(&device);

    if (code == cudaSuccess) {
        code = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    }
    if (code == cudaSuccess) {
        code = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
    }

    const int32_t fit = shared / each;

    *most = processors * (fit < 1 ? 1 : fit < BLOCKS_PER_SM ? fit : BLOCKS_PER_SM);
    return code;
}

template <typename Batch>
static cudaError_t launch_queue(const Batch *batch, int32_t rows, cudaStream_t stream)
{
    queue_args<Batch> args = {*batch,
                              queue_in(batch->workspace, batch->sequences, rows, batch->vocab)};
    const int64_t tiles = (int64_t)batch->sequences * rows * args.q.tiles;
    const int64_t useful = tiles + batch->sequences; /* some to decide, while others sum */
    int32_t most = 0;
    cudaError_t code;

    if (tiles > INT32_MAX) return cudaErrorInvalidValue;
    code = most_blocks(&most);
    if (code != cudaSuccess) return code;
    take_at_once(&args.q, tiles_at_once(tiles, most));
    return launch_together(queue_kernel<Batch>, useful < most ? (int32_t)useful : most, args,
                           stream);
}

cudaError_t spc_launch_queued_draw(const spc_draw_batch *batch, cudaStream_t stream)
{
    return launch_queue(batch, 1, stream);
}

cudaError_t spc_launch_queued_verify(const spc_verify_batch *batch, cudaStream_t stream)
{
    const int32_t rows = batch->max_drafts > 0 ? batch->max_drafts : 1;
    const bool drafter = batch->drafter.logits.data && !batch->stats && batch->max_drafts > 0;

    return launch_queue(batch, rows + (drafter ? batch->max_drafts : 0), stream);
}

cudaError_t spc_load_queue(size_t *most)
{
    const cudaError_t code = load_kernel(queue_kernel<spc_draw_batch>, most);

    return code == cudaSuccess ? load_kernel(queue_kernel<spc_verify_batch>, most) : code;
}
