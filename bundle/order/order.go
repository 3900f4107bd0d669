// Package order sorts lists of structs. Package slices makes up to 9 KB of code for each type
// that it sorts, which a device would have to carry; this makes next to none.
package order

import "sort"

// By sorts list by compare, which says as [cmp.Compare] does which of two comes first. What is
// equal keeps its order.
func By[T any](list []T, compare func(a, b T) int) {
	sort.SliceStable(list, func(i, j int) bool { return compare(list[i], list[j]) < 0 })
}
