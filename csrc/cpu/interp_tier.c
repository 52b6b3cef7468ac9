/* The interpreter that looks for hot code: what runs until the JIT has translated it. */
#include "cpu/interp.h"

#define INTERP wh_interp_run_tier
#define INTERP_TIER
#include "cpu/interp_run.h"
