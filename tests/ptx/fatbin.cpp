/* SPDX-License-Identifier: Apache-2.0 */
/* fatbin.cpp - the text of kernels out of what nvcc puts into objects.
 *
 * It is packed, in LZ4's format where nvcc is told so (--compress-mode=speed) or is older
 * than 12.8. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ptx.h"

namespace ptx
{
namespace
{

struct fat_header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
};

/* One of its parts: a text, or code for one kind of device. */
struct fat_part {
    uint16_t kind, unknown;
    uint32_t header_bytes;
    uint64_t bytes;
    uint32_t packed_bytes, unknown_too;
    uint16_t minor, major;
    uint32_t target;
    uint32_t name_offset, name_bytes;
    uint64_t flags, zero, unpacked_bytes;
};

enum { TEXT = 1 };
enum : uint64_t { LZ4 = 0x2000, ZSTD = 0x8000 };

[[noreturn]] void refuse(const char *what)
{
    fprintf(stderr, "ptx: %s\n", what);
    abort();
}

/* A number that goes on in further bytes while they are full. */
size_t length_of(const unsigned char **at, const unsigned char *end, size_t n)
{
    if (n < 15) return n;
    for (unsigned char more = 255; more == 255; n += more) {
        if (*at == end) refuse("packed text that is cut off");
        more = *(*at)++;
    }
    return n;
}

/* Literals, then bytes that were there before: so on. */
std::string unpack(const char *from, size_t bytes, size_t unpacked)
{
    const unsigned char *at = (const unsigned char *)from, *const end = at + bytes;
    std::string out;

    out.reserve(unpacked);
    while (at < end && out.size() < unpacked) {
        const unsigned token = *at++;
        size_t n = length_of(&at, end, token >> 4), back;

        if (n > (size_t)(end - at)) refuse("packed text that is cut off");
        out.append((const char *)at, n);
        at += n;
        if (out.size() >= unpacked || end - at < 2) break;
        back = (size_t)(at[0] | at[1] << 8);
        at += 2;
        n = length_of(&at, end, token & 15) + 4;
        if (back == 0 || back > out.size()) refuse("packed text that is wrong");
        for (; n > 0; n--) out.push_back(out[out.size() - back]);
    }
    if (out.size() != unpacked) refuse("packed text of another length");
    return out;
}

} // namespace

/* Of several texts that for the latest device. */
std::string text_of(const char *fat_binary)
{
    const char *at, *end, *best = nullptr;
    fat_header h;
    fat_part part, chosen = {};

    memcpy(&h, fat_binary, sizeof h);
    if (h.magic != 0xba55ed50u) refuse("a fat binary of an unknown kind");
    at = fat_binary + h.header_bytes;
    end = at + h.bytes;
    for (; at < end; at += part.header_bytes + part.bytes) {
        memcpy(&part, at, sizeof part);
        if (part.kind != TEXT || part.target <= chosen.target) continue;
        best = at + part.header_bytes;
        chosen = part;
    }
    if (!best) refuse("objects without PTX");
    if (chosen.flags & ZSTD) refuse("text that is packed otherwise (nvcc --compress-mode=speed)");
    if (chosen.flags & LZ4) return unpack(best, chosen.packed_bytes, chosen.unpacked_bytes);
    return std::string(best, strnlen(best, chosen.bytes));
}

} // namespace ptx
