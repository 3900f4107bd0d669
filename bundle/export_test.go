package bundle

// For the forger of vectors in package bundle_test.
var (
	TarHeader   = tarHeader
	WriteStored = writeStored
	Footer      = footer
	FooterSize  = footerSize
	GzipHeader  = gzipHeader
	BlobPath    = blobPath
)

func (m *Manifest) Blobs() []Descriptor { return m.blobs() }
