/* One instruction: what the JIT calls for an operation that it has no code for. */
#include "cpu/interp.h"

#define INTERP wh_interp_one
#define INTERP_ONE
#include "cpu/interp_run.h"
