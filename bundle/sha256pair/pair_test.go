package sha256pair

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

// TestWrite compares with crypto/sha256, for writes of every length and digests
// that are at and off the beginning of a block.
func TestWrite(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 20<<10)
	random.Read(data)
	for _, before := range []int{0, 1, 63, 64, 512} {
		for n := 0; n < 600; n++ {
			check(t, data[:before], data[before:before+n])
		}
		check(t, data[:before], data[before:])
	}
}

func check(t *testing.T, before, p []byte) {
	t.Helper()
	a, b, wantA, wantB := sha256.New(), sha256.New(), sha256.New(), sha256.New()
	b.Write(before)
	wantB.Write(before)
	for _, part := range [][]byte{p, p[len(p)/2:], nil, p} {
		Write(a, b, part)
		wantA.Write(part)
		wantB.Write(part)
		if !bytes.Equal(a.Sum(nil), wantA.Sum(nil)) || !bytes.Equal(b.Sum(nil), wantB.Sum(nil)) {
			t.Fatalf("%d bytes behind %d: another digest than crypto/sha256", len(p), len(before))
		}
	}
}

func FuzzWrite(f *testing.F) {
	f.Add([]byte("before"), bytes.Repeat([]byte("p"), 200))
	f.Fuzz(func(t *testing.T, before, p []byte) { check(t, before, p) })
}

func BenchmarkWrite(b *testing.B) {
	x, y, p := sha256.New(), sha256.New(), make([]byte, 256<<10)
	b.Run("pair", func(b *testing.B) {
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			Write(x, y, p)
		}
	})
	b.Run("one", func(b *testing.B) {
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			x.Write(p)
		}
	})
}
