/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_int8.c - matrices to 8-bit integers with a scale for each row. */
#include "eight.h"

#include "weights/int8.h"

/* A bundle of the tensors written so far; *file is to be freed behind it. */
static spc_bundle *bundle_of(eight_file *w, char **file)
{
    spc_blob blob = {.name = "model.safetensors"};
    spc_bundle *bundle;
    spc_error error;

    blob.data = *file = eight_finish(w, &blob.bytes);
    cr_assert_eq(spc_bundle_open_memory("made", &blob, 1, &bundle, &error), SPC_OK, "%s",
                 error.message);
    return bundle;
}

static void expect_row(const spc_bundle *bundle, const char *name, int32_t row, float scale,
                       const int8_t *q)
{
    const spc_tensor *t = spc_bundle_find(bundle, name);
    char full[64];

    (void)snprintf(full, sizeof full, "%s_scale", name);
    cr_assert_eq(t->dtype, SPC_DTYPE_I8);
    cr_assert_eq(t->bytes, (uint64_t)(t->shape[0] * t->shape[1]));
    cr_expect(memcmp((const int8_t *)t->data + row * t->shape[1], q, (size_t)t->shape[1]) == 0,
              "%s, row %d", name, (int)row);
    t = spc_bundle_find(bundle, full);
    cr_assert(t && t->dtype == SPC_DTYPE_F32 && t->rank == 1);
    cr_expect_eq(((const float *)t->data)[row], scale);
}

Test(weights_int8, rows_are_scaled_to_127_and_rounded_to_even)
{
    static const float f32[] = {127, -0.5f, 1.5f, 2.5f, 0, 0, 0, 0, -2, 1, 0.5f, 0x1p-7f};
    static const uint16_t bf16[] = {0x3f80, 0xbf80, 0x3f00, 0x0000}; /* 1, -1, .5, 0 */
    static const uint16_t f16[] = {0x3c00, 0xb800, 0x0001, 0x0000};  /* 1, -.5, 2^-24, 0 */
    static const float tiny[] = {0x1p-149f, -0x1p-149f, 0x1.8p-148f, 0x1p-140f};
    eight_file w = eight_writer(4096);
    spc_bundle *bundle;
    spc_error error;
    char *file;

    eight_put(&w, "a", "F32", 3, 4, f32, sizeof f32);
    eight_put(&w, "b", "BF16", 1, 4, bf16, sizeof bf16);
    eight_put(&w, "c", "F16", 1, 4, f16, sizeof f16);
    eight_put(&w, "tiny", "F32", 1, 4, tiny, sizeof tiny);
    eight_put(&w, "vector", "F32", 4, 0, tiny, sizeof tiny);
    eight_put(&w, "z", "F8_E4M3", 4, 4, f32, 16);
    bundle = bundle_of(&w, &file);
    for (const char *const *name =
             (const char *const[]){"c", "a", "tiny", "b", "z", "vector", "?", "a", NULL};
         *name; name++) {
        cr_assert_eq(spc_int8_quantise(bundle, *name, NULL, &error), SPC_OK, "%s", error.message);
    }
    expect_row(bundle, "a", 0, 1, (const int8_t[]){127, 0, 2, 2});
    expect_row(bundle, "a", 1, 0, (const int8_t[]){0, 0, 0, 0});
    expect_row(bundle, "a", 2, 2.0f / 127.0f, (const int8_t[]){-127, 64, 32, 0});
    expect_row(bundle, "b", 0, 1.0f / 127.0f, (const int8_t[]){127, -127, 64, 0});
    expect_row(bundle, "c", 0, 1.0f / 127.0f, (const int8_t[]){127, -64, 0, 0});
    expect_row(bundle, "tiny", 0, 0x1p-147f, (const int8_t[]){0, 0, 1, 127});
    cr_expect_eq(spc_bundle_find(bundle, "z")->dtype, SPC_DTYPE_F8_E4M3);
    cr_expect_eq(spc_bundle_find(bundle, "vector")->dtype, SPC_DTYPE_F32);
    cr_expect_eq(spc_bundle_count(bundle), 6 + 4);
    cr_expect_eq(spc_bundle_bytes(bundle), 12 + 4 + 4 + 4 + 16 + 16 + 6 * sizeof(float));
    spc_bundle_close(bundle);
    free(file);
}

/* So many that there is no room for their scales. */
Test(weights_int8, rows_of_nothing_are_left_alone)
{
    static const char header[] = "{\"m\":{\"dtype\":\"F32\",\"shape\":[1099511627776,0],"
                                 "\"data_offsets\":[0,0]}}";
    char file[8 + sizeof header - 1] = {(char)(sizeof header - 1)};
    spc_blob blob = {"model.safetensors", file, sizeof file};
    spc_bundle *bundle;
    spc_error error;

    memcpy(file + 8, header, sizeof header - 1);
    cr_assert_eq(spc_bundle_open_memory("made", &blob, 1, &bundle, &error), SPC_OK, "%s",
                 error.message);
    cr_expect_eq(spc_int8_quantise(bundle, "m", NULL, &error), SPC_OK);
    cr_expect_eq(spc_bundle_find(bundle, "m")->dtype, SPC_DTYPE_F32);
    spc_bundle_close(bundle);
}

/* Threads one behind the other, the last range first. */
static void cut_in_three(void *team, int32_t count, int32_t grain, spc_share_fn share, void *user)
{
    int32_t third = count / 3 / grain * grain, *calls = team;

    share(user, 2, 2 * third, count);
    share(user, 0, 0, third);
    share(user, 1, third, 2 * third);
    (*calls)++;
}

Test(weights_int8, threads_make_the_same_numbers)
{
    enum { ROWS = 101, COLS = 777 };
    static float values[ROWS * COLS];
    int32_t calls = 0;
    const spc_sharing sharing[] = {{cut_in_three, &calls}};
    spc_bundle *bundle[2];
    const spc_tensor *made[2], *scale[2];
    char *file[2];
    spc_error error;

    for (int32_t i = 0; i < ROWS * COLS; i++) values[i] = sinf((float)i) * (float)(i % 83);
    for (int32_t k = 0; k < 2; k++) {
        eight_file w = eight_writer(sizeof values + 4096);

        eight_put(&w, "m", "F32", ROWS, COLS, values, sizeof values);
        bundle[k] = bundle_of(&w, &file[k]);
        cr_assert_eq(spc_int8_quantise(bundle[k], "m", k ? sharing : NULL, &error), SPC_OK, "%s",
                     error.message);
        made[k] = spc_bundle_find(bundle[k], "m");
        scale[k] = spc_bundle_find(bundle[k], "m_scale");
    }
    cr_expect_eq(calls, 1);
    cr_expect_arr_eq(made[0]->data, made[1]->data, ROWS * COLS);
    cr_expect_arr_eq(scale[0]->data, scale[1]->data, ROWS * sizeof(float));
    for (int32_t k = 0; k < 2; k++) {
        spc_bundle_close(bundle[k]);
        free(file[k]);
    }
}

Test(weights_int8, what_is_not_finite_or_has_a_scale_is_named)
{
    static const float x[] = {1, 2, 3, NAN, INFINITY, 0};
    eight_file w = eight_writer(4096);
    spc_bundle *bundle;
    spc_error error;
    char *file;

    eight_put(&w, "nan", "F32", 2, 2, x, 16);
    eight_put(&w, "huge", "F32", 1, 2, x + 4, 8);
    eight_put(&w, "other", "F32", 1, 2, x, 8);
    eight_put(&w, "other_scale", "F32", 1, 0, x, 4);
    bundle = bundle_of(&w, &file);
    cr_expect_eq(spc_int8_quantise(bundle, "nan", NULL, &error), SPC_ENUMERIC);
    cr_expect(strstr(error.message, "made: nan: ") && strstr(error.message, "row 1"), "%s",
              error.message);
    cr_expect_eq(spc_bundle_find(bundle, "nan")->dtype, SPC_DTYPE_F32, "left as it was");
    cr_expect_eq(spc_int8_quantise(bundle, "huge", NULL, &error), SPC_ENUMERIC);
    cr_expect_eq(spc_int8_quantise(bundle, "other", NULL, &error), SPC_EMODEL);
    cr_expect(strstr(error.message, "'other'"), "%s", error.message);
    spc_bundle_close(bundle);
    free(file);
}
