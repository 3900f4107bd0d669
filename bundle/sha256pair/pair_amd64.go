//go:build !purego

package sha256pair

// blocks adds the blocks of 64 bytes in p to both.
//
//go:noescape
func blocks(a, b *[8]uint32, p []byte)

// cpuid returns what the processor says; subleaf 0.
func cpuid(leaf uint32) (max, ebx, ecx uint32)

// fast reports whether the processor has SSSE3, SSE4.1 and SHA.
var fast = func() bool {
	if top, _, _ := cpuid(0); top < 7 {
		return false
	}
	_, _, one := cpuid(1)
	_, seven, _ := cpuid(7)
	return one>>9&1 == 1 && one>>19&1 == 1 && seven>>29&1 == 1
}()
