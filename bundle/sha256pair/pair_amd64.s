//go:build !purego

#include "textflag.h"

// Registers: X1 (A B E F) and X2 (C D G H) are the state of a, X8 and X9 that of b,
// X3 to X6 the message schedule of both, X0 and X7 scratch.

// rounds does four rounds of both states with the words m and the constants at k.
#define half(k, m) \
	MOVO m, X0; \
	PADDD (k*16)(AX), X0; \
	SHA256RNDS2 X0, X1, X2; \
	SHA256RNDS2 X0, X8, X9

#define otherHalf \
	PSHUFD $0x0e, X0, X0; \
	SHA256RNDS2 X0, X2, X1; \
	SHA256RNDS2 X0, X9, X8

// load reads four words of the message.
#define load(k, m) \
	MOVOU (k*16)(SI), m; \
	PSHUFB X14, m

// extend finishes the four words behind m, whose predecessor is before.
#define extend(before, m, next) \
	MOVO m, X7; \
	PALIGNR $4, before, X7; \
	PADDD X7, next; \
	SHA256MSG2 m, next

#define rounds(k, before, m, next) \
	half(k, m); \
	extend(before, m, next); \
	otherHalf; \
	SHA256MSG1 m, before

// unpack and pack turn h0 to h7 at p into the order of the instructions, and back.
#define unpack(p, abef, cdgh) \
	MOVOU (p), abef; \
	MOVOU 16(p), cdgh; \
	PSHUFD $0xb1, abef, abef; \
	PSHUFD $0x1b, cdgh, cdgh; \
	MOVO abef, X7; \
	PALIGNR $8, cdgh, abef; \
	PBLENDW $0xf0, X7, cdgh

#define pack(p, abef, cdgh) \
	PSHUFD $0x1b, abef, abef; \
	PSHUFD $0xb1, cdgh, cdgh; \
	MOVO abef, X7; \
	PBLENDW $0xf0, cdgh, abef; \
	PALIGNR $8, X7, cdgh; \
	MOVOU abef, (p); \
	MOVOU cdgh, 16(p)

// func blocks(a, b *[8]uint32, p []byte)
TEXT ·blocks(SB), NOSPLIT, $0-40
	MOVQ a+0(FP), DI
	MOVQ b+8(FP), DX
	MOVQ p_base+16(FP), SI
	MOVQ p_len+24(FP), CX
	SHRQ $6, CX
	JZ   done
	LEAQ ·constants(SB), AX
	MOVOU ·bigEndian(SB), X14
	unpack(DI, X1, X2)
	unpack(DX, X8, X9)

loop:
	MOVO X1, X10
	MOVO X2, X11
	MOVO X8, X12
	MOVO X9, X13
	load(0, X3)
	half(0, X3)
	otherHalf
	load(1, X4)
	half(1, X4)
	otherHalf
	SHA256MSG1 X4, X3
	load(2, X5)
	half(2, X5)
	otherHalf
	SHA256MSG1 X5, X4
	load(3, X6)
	rounds(3, X5, X6, X3)
	rounds(4, X6, X3, X4)
	rounds(5, X3, X4, X5)
	rounds(6, X4, X5, X6)
	rounds(7, X5, X6, X3)
	rounds(8, X6, X3, X4)
	rounds(9, X3, X4, X5)
	rounds(10, X4, X5, X6)
	rounds(11, X5, X6, X3)
	rounds(12, X6, X3, X4)
	half(13, X4)
	extend(X3, X4, X5)
	otherHalf
	half(14, X5)
	extend(X4, X5, X6)
	otherHalf
	half(15, X6)
	otherHalf
	PADDD X10, X1
	PADDD X11, X2
	PADDD X12, X8
	PADDD X13, X9
	ADDQ $64, SI
	DECQ CX
	JNZ  loop

	pack(DI, X1, X2)
	pack(DX, X8, X9)
done:
	RET

// func cpuid(leaf uint32) (max, ebx, ecx uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-20
	MOVL leaf+0(FP), AX
	XORL CX, CX
	CPUID
	MOVL AX, max+8(FP)
	MOVL BX, ebx+12(FP)
	MOVL CX, ecx+16(FP)
	RET

DATA ·bigEndian+0(SB)/8, $0x0405060700010203
DATA ·bigEndian+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL ·bigEndian(SB), RODATA|NOPTR, $16

// The constants of FIPS 180-4, section 4.2.2.
DATA ·constants+0(SB)/8, $0x71374491428a2f98
DATA ·constants+8(SB)/8, $0xe9b5dba5b5c0fbcf
DATA ·constants+16(SB)/8, $0x59f111f13956c25b
DATA ·constants+24(SB)/8, $0xab1c5ed5923f82a4
DATA ·constants+32(SB)/8, $0x12835b01d807aa98
DATA ·constants+40(SB)/8, $0x550c7dc3243185be
DATA ·constants+48(SB)/8, $0x80deb1fe72be5d74
DATA ·constants+56(SB)/8, $0xc19bf1749bdc06a7
DATA ·constants+64(SB)/8, $0xefbe4786e49b69c1
DATA ·constants+72(SB)/8, $0x240ca1cc0fc19dc6
DATA ·constants+80(SB)/8, $0x4a7484aa2de92c6f
DATA ·constants+88(SB)/8, $0x76f988da5cb0a9dc
DATA ·constants+96(SB)/8, $0xa831c66d983e5152
DATA ·constants+104(SB)/8, $0xbf597fc7b00327c8
DATA ·constants+112(SB)/8, $0xd5a79147c6e00bf3
DATA ·constants+120(SB)/8, $0x1429296706ca6351
DATA ·constants+128(SB)/8, $0x2e1b213827b70a85
DATA ·constants+136(SB)/8, $0x53380d134d2c6dfc
DATA ·constants+144(SB)/8, $0x766a0abb650a7354
DATA ·constants+152(SB)/8, $0x92722c8581c2c92e
DATA ·constants+160(SB)/8, $0xa81a664ba2bfe8a1
DATA ·constants+168(SB)/8, $0xc76c51a3c24b8b70
DATA ·constants+176(SB)/8, $0xd6990624d192e819
DATA ·constants+184(SB)/8, $0x106aa070f40e3585
DATA ·constants+192(SB)/8, $0x1e376c0819a4c116
DATA ·constants+200(SB)/8, $0x34b0bcb52748774c
DATA ·constants+208(SB)/8, $0x4ed8aa4a391c0cb3
DATA ·constants+216(SB)/8, $0x682e6ff35b9cca4f
DATA ·constants+224(SB)/8, $0x78a5636f748f82ee
DATA ·constants+232(SB)/8, $0x8cc7020884c87814
DATA ·constants+240(SB)/8, $0xa4506ceb90befffa
DATA ·constants+248(SB)/8, $0xc67178f2bef9a3f7
GLOBL ·constants(SB), RODATA|NOPTR, $256
