// Package bundle reads, checks and writes release bundles: the format valise/1. It
// needs no network, runs nothing and asks no clock, and everything here may be
// given a file that was made to do harm.
//
// The text of the format is FORMAT.md in this directory; a reader can be written
// from it. In short:
//
//   - A bundle is a tar, as gzip members, as zstd frames, or bare. Manifest first,
//     then its signature, the files, images.tar, a table of contents, and a footer
//     behind the tar.
//   - It is canonical. Once the manifest is known each header can have one value, so
//     a reader builds that and compares 512 bytes; it interprets none.
//   - The manifest pins the digest and the size of every content, and the signature
//     covers the manifest's bytes and nothing else.
//   - The table of contents and the lengths in the footer are hints without a
//     signature. They say where to look, and never what is there.
//
// # What may be trusted when
//
// Open reads the head. What it returns is well-formed and a stranger's: Manifest
// may be shown, and says who made it only as far as a signature does, which
// package verify decides. ManifestBytes are what is signed.
//
// Check reads the rest of the file once, in at most four goroutines, and compares
// all of it. After it, and after Locate, which only asks the table of contents,
// OpenFile and OpenBlob give content; they hash it again, so what was read counts
// when reading it ended with io.EOF and not before.
//
// # Rules and limits
//
// A file that breaks a rule gives a *FormatError, with the rule's name ("digest",
// "member", "padding") as FORMAT.md has it and the entry in question. Other errors
// are those of the storage. The rules have numbers there, testdata/vectors has a
// bundle for each, and a test fails when text, vectors and code do not have the
// same rules. The constants that begin with Max are the limits, in bytes where they
// say nothing else; a writer keeps to them as a reader does.
//
// # Writing
//
// Write makes a bundle from a manifest and its content, in one pass and in memory
// that does not depend on the size of either. The same input gives the same bytes.
// Seal copies a bundle and puts a signature into the copy; Thin copies one without
// what a device has already.
package bundle
