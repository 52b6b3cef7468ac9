/* Bare M-mode entry for programs that run on QEMU's virt board and on Wherry's core alike. */
.section .text.start
.globl _start
_start:
    csrr t0, mhartid
    bnez t0, park
    la sp, stack_top
    li t0, 0x6000
    csrs mstatus, t0
    call main
    li t0, 0x100000
    li t1, 0x5555
    sw t1, 0(t0)
park:
    wfi
    j park
.section .bss
.align 4
.space 65536
stack_top:
