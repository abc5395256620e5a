/* SPDX-License-Identifier: Apache-2.0 */
/* numbers.h - what instructions make of numbers, of one lane.
 *
 * Floats are those of IEEE, as a device has them, but that what is not a number always has the same
 * bits. */
#ifndef SPC_TESTS_PTX_NUMBERS_H
#define SPC_TESTS_PTX_NUMBERS_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

namespace ptx
{

inline float plain(float x)
{
    const uint32_t nan = 0x7fffffffu;
    float y;

    memcpy(&y, &nan, sizeof y);
    return x != x ? y : x;
}

inline double plain(double x)
{
    const uint64_t nan = 0xfff8000000000000u;
    double y;

    memcpy(&y, &nan, sizeof y);
    return x != x ? y : x;
}

template <typename T> T plain(T x)
{
    return x;
}

struct add {
    template <typename T> static T of(T a, T b)
    {
        return plain((T)(a + b));
    }
};

struct sub {
    template <typename T> static T of(T a, T b)
    {
        return plain((T)(a - b));
    }
};

struct mul {
    template <typename T> static T of(T a, T b)
    {
        return plain((T)(a * b));
    }
};

struct divide {
    static float of(float a, float b)
    {
        return plain(a / b);
    }
    static double of(double a, double b)
    {
        return plain(a / b);
    }
    template <typename T> static T of(T a, T b)
    {
        if (b == 0) return (T)-1;
        if (std::is_signed<T>::value && b == (T)-1) return (T)(0 - (uint64_t)a);
        return (T)(a / b);
    }
};

struct rem {
    template <typename T> static T of(T a, T b)
    {
        if (b == 0) return a;
        if (std::is_signed<T>::value && b == (T)-1) return 0;
        return (T)(a % b);
    }
};

/* The one that is a number; of zeros +0 is the larger one. */
template <typename T> T smaller(T a, T b)
{
    if (std::is_floating_point<T>::value && (a != a || b != b)) return plain(a != a ? b : a);
    if (a == b && std::is_floating_point<T>::value) return std::signbit((double)a) ? a : b;
    return b < a ? b : a;
}

template <typename T> T larger(T a, T b)
{
    if (std::is_floating_point<T>::value && (a != a || b != b)) return plain(a != a ? b : a);
    if (a == b && std::is_floating_point<T>::value) return std::signbit((double)a) ? b : a;
    return b > a ? b : a;
}

struct min {
    template <typename T> static T of(T a, T b)
    {
        return smaller(a, b);
    }
};

struct max {
    template <typename T> static T of(T a, T b)
    {
        return larger(a, b);
    }
};

struct max_nan {
    static float of(float a, float b)
    {
        return a != a || b != b ? plain(NAN) : larger(a, b);
    }
};

/* a b + c of bf16, each given as the upper half of a float: rounded once.  A sum of 24 bits that
 * was cut off, and whose last bit says whether there was more, still tells to which of 8 bits it is
 * nearest. */
inline uint32_t fused_bf16(float a, float b, float c)
{
    const double product = (double)a * b, sum = product + c, of_c = sum - product;
    const double lost = (product - (sum - of_c)) + (c - of_c);
    const float near = __builtin_fmaf(a, b, c);
    const double more = (sum - near) + lost;
    uint32_t bits;

    if (near != near) return 0x7fffu;
    memcpy(&bits, &near, sizeof bits);
    if (std::isfinite(near) && near != 0 && more != 0) {
        bits -= std::signbit(more) != std::signbit(near);
        bits |= 1;
    }
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

/* Two of 16 bits. */
struct max_nan_bf16 {
    static float half(uint32_t bits)
    {
        float x;

        memcpy(&x, &bits, sizeof x);
        return x;
    }

    static uint32_t one(uint32_t a, uint32_t b)
    {
        const float x = half(a), y = half(b);

        if (x != x || y != y) return 0x7fffu;
        return (larger(x, y) == x && (x != y || !std::signbit(x)) ? a : b) >> 16;
    }

    static uint32_t of(uint32_t a, uint32_t b)
    {
        return one(a << 16, b << 16) | one(a & 0xffff0000u, b & 0xffff0000u) << 16;
    }
};

struct bit_and {
    template <typename T> static T of(T a, T b)
    {
        return a & b;
    }
};

struct bit_or {
    template <typename T> static T of(T a, T b)
    {
        return a | b;
    }
};

struct bit_xor {
    template <typename T> static T of(T a, T b)
    {
        return a ^ b;
    }
};

struct mul_hi {
    static int32_t of(int32_t a, int32_t b)
    {
        return (int32_t)((int64_t)a * b >> 32);
    }
    static uint32_t of(uint32_t a, uint32_t b)
    {
        return (uint32_t)((uint64_t)a * b >> 32);
    }
    static int64_t of(int64_t a, int64_t b)
    {
        return (int64_t)((__int128)a * b >> 64);
    }
    static uint64_t of(uint64_t a, uint64_t b)
    {
        return (uint64_t)((unsigned __int128)a * b >> 64);
    }
};

struct shl {
    template <typename T> static T of(T a, uint32_t by)
    {
        return by >= 8 * sizeof a ? (T)0 : (T)(a << by);
    }
};

struct shr {
    template <typename T> static T of(T a, uint32_t by)
    {
        const uint32_t most = 8 * sizeof a - 1;

        return by <= most ? (T)(a >> by) : std::is_signed<T>::value ? (T)(a >> most) : (T)0;
    }
};

struct negate {
    static float of(float a)
    {
        return -a;
    }
    static double of(double a)
    {
        return -a;
    }
    template <typename T> static T of(T a)
    {
        return (T)(0 - (uint64_t)a);
    }
};

struct absolute {
    static float of(float a)
    {
        return fabsf(a);
    }
    static double of(double a)
    {
        return fabs(a);
    }
    template <typename T> static T of(T a)
    {
        return a < 0 ? (T)(0 - (uint64_t)a) : a;
    }
};

struct bit_not {
    template <typename T> static T of(T a)
    {
        return (T)~a;
    }
};

struct same {
    template <typename T> static T of(T a)
    {
        return a;
    }
};

struct root {
    template <typename T> static T of(T a)
    {
        return plain((T)sqrt(a));
    }
};

struct inverse {
    template <typename T> static T of(T a)
    {
        return plain(1 / a);
    }
};

/* As near as the upper 32 bits come: a device may be some units of those off. */
struct inverse_rough {
    static double of(double a)
    {
        double y = 1 / a;
        uint64_t bits;

        memcpy(&bits, &y, sizeof bits);
        if (y == y && !isinf(y)) bits = (bits + 0x80000000u) & ~(uint64_t)0xffffffffu;
        memcpy(&y, &bits, sizeof y);
        return plain(fabs(y) < 0x1p-1022 ? copysign(0.0, y) : y);
    }
};

/* 2^x, up to 2^-22 off in either direction as the bits of x have it (tests/fibers/rough.h). */
struct power_rough {
    static float of(float x)
    {
        uint32_t mixed;
        double off;
        float y;

        memcpy(&mixed, &x, sizeof mixed);
        mixed = mixed * 2654435769u >> 8;
        off = x == 0.0f ? 0.0 : ((double)mixed / (1 << 23) - 1) * 0x1p-22;
        y = (float)(exp2((double)x) * (1 + off));
        return y < 0x1p-126f ? 0.0f : plain(y);
    }
};

struct count_ones {
    static uint32_t of(uint32_t a)
    {
        return (uint32_t)__builtin_popcount(a);
    }
};

} // namespace ptx

#endif
