package main

// writeFile replaces a file in one step.
func writeFile(path string, data []byte) error {
	f, err := newFile(path)
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}
