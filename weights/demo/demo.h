/* SPDX-License-Identifier: Apache-2.0 */
/* demo.h - the translation pair that is built into the library. */
#ifndef SPC_WEIGHTS_DEMO_H
#define SPC_WEIGHTS_DEMO_H

#include "weights/bundle.h"

typedef enum { SPC_DEMO_DRAFTER, SPC_DEMO_VERIFIER } spc_demo_model;

enum { SPC_DEMO_FILES = 4 };

/* Files of a model, for spc_bundle_open_memory; their bytes live as long as the program.
 *
 * files   [SPC_DEMO_FILES]
 *
 * Returns their number; 0 in a build without them (SPC_EMBED=OFF). */
int32_t spc_demo_files(spc_demo_model which, spc_blob *files);

#endif
