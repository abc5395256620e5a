/* SPDX-License-Identifier: Apache-2.0 */
/* none.c - stands in for demo.c and embed.S in a build without the embedded pair (SPC_EMBED=OFF).
 */
#include "weights/demo/demo.h"

int32_t spc_demo_files(spc_demo_model which, spc_blob *files)
{
    (void)which;
    (void)files;
    return 0;
}
