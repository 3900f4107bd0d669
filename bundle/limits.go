package bundle

// Limits of format valise/1. Sizes are bytes. FORMAT.md names the rule each
// one belongs to; a bundle beyond a limit is refused, never truncated.
const (
	MaxManifestSize  = 8 << 20   // manifest.json
	MaxSignatureSize = 1 << 20   // manifest.json.sigstore.json
	MaxTOCSize       = 16 << 20  // table of contents
	MaxFileSize      = 1 << 40   // one file, blob or images.tar
	MaxFiles         = 40_000    // entries of files
	MaxComponents    = 256       // images of one release
	MaxPlatforms     = 16        // platforms of one release
	MaxLayers        = 512       // layers of one image
	MaxPathLength    = 255       // one path
	MaxStringLength  = 4096      // one text field, except the changelog
	MaxChangelog     = 256 << 10 // the changelog
	MaxSigners       = 16        // signers that a release names
	MaxTrustedRoot   = 1 << 20   // a trusted root that a release carries
	MaxImageManifest = 4 << 20   // one image manifest, image index or image config
	MaxUnits         = 32        // units, and templates, of one release
	MaxRequired      = 1000      // required paths
	MaxMounts        = 1000      // mounts of one release
	MaxConfigFile    = 1 << 20   // one unit or template
	MaxMembers       = 1 << 19   // members of a zstd bundle, with the footer's

	// MemberSize is the most input one member of a large entry holds: a reader can
	// start at every multiple of it.
	MemberSize = 4 << 20
)
