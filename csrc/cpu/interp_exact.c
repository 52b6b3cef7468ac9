/* The interpreter that stops at an exact instruction: stepping, and the rest of a slice that a translated block
 * would overshoot. */
#include "cpu/interp.h"

#define INTERP wh_interp_run_exact
#define INTERP_EXACT
#include "cpu/interp_run.h"
