/* emit_atomic: nothing yet; every such instruction runs in C (x86.h). */
#include "jit/x86/x86.h"

bool wh_x86_emit_atomic(wh_x86 *e, const wh_jit_op *o)
{
    (void)e;
    (void)o;
    return false;
}
