/* Where every guest program begins. S-mode (the default): a Linux Image header, so that the board's direct boot takes it.
 * M-mode (-DMMODE): the start of an ELF; each hart enters. Hart n gets the stack below stacks + (n + 1) * 16 KiB and calls
 * main(hart, opaque); traps call trap(cause, epc, tval), which returns the pc to go on at. */
    .option norelax
    .section .head, "ax"
    .globl _start
_start:
#ifdef MMODE
    j enter
#else
    .option push
    .option norvc
    j enter
    nop
    .option pop
    .dword 0x200000             /* text offset */
    .dword _end - _start        /* image size */
    .dword 0                    /* flags: little-endian */
    .word 2                     /* header version 0.2 */
    .word 0
    .dword 0
    .ascii "RISCV\0\0\0"
    .ascii "RSC\5"
    .word 0
#endif
    .text
    .globl enter
enter:
    la t0, stacks
    addi t1, a0, 1
    slli t1, t1, 14
    add sp, t0, t1
    la t0, trap_entry
#ifdef MMODE
    csrw mtvec, t0
#else
    csrw stvec, t0
    li t0, 1 << 13              /* the FPU is on: the compiler may use it anywhere */
    csrs sstatus, t0
#endif
    call main
    call finish
1:  j 1b

#ifdef MMODE
#define CAUSE mcause
#define EPC mepc
#define TVAL mtval
#define RETURN mret
#else
#define CAUSE scause
#define EPC sepc
#define TVAL stval
#define RETURN sret
#endif

    .balign 4
trap_entry:
    addi sp, sp, -144
    sd ra, 0(sp)
    sd t0, 8(sp)
    sd t1, 16(sp)
    sd t2, 24(sp)
    sd a0, 32(sp)
    sd a1, 40(sp)
    sd a2, 48(sp)
    sd a3, 56(sp)
    sd a4, 64(sp)
    sd a5, 72(sp)
    sd a6, 80(sp)
    sd a7, 88(sp)
    sd t3, 96(sp)
    sd t4, 104(sp)
    sd t5, 112(sp)
    sd t6, 120(sp)
    csrr a0, CAUSE
    csrr a1, EPC
    csrr a2, TVAL
    call trap
    csrw EPC, a0
    ld ra, 0(sp)
    ld t0, 8(sp)
    ld t1, 16(sp)
    ld t2, 24(sp)
    ld a0, 32(sp)
    ld a1, 40(sp)
    ld a2, 48(sp)
    ld a3, 56(sp)
    ld a4, 64(sp)
    ld a5, 72(sp)
    ld a6, 80(sp)
    ld a7, 88(sp)
    ld t3, 96(sp)
    ld t4, 104(sp)
    ld t5, 112(sp)
    ld t6, 120(sp)
    addi sp, sp, 144
    RETURN

    .bss
    .balign 16
    .globl stacks
stacks:
    .space 64 * 16384
