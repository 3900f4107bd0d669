package main

import (
	"strings"

	"rsc.io/qr"
)

// qrMargin is the white border around a code, in modules.
const qrMargin = 2

// qrText writes an address as a QR code of text, two modules a character, or nothing
// when it is too long for one. GitHub keeps text in a code block as it is; of an SVG or
// an image in the text it keeps nothing.
func qrText(address string) string {
	code, err := qr.Encode(address, qr.M)
	if err != nil {
		return ""
	}
	var b strings.Builder
	for y := -qrMargin; y < code.Size+qrMargin; y += 2 {
		var line strings.Builder
		for x := -qrMargin; x < code.Size+qrMargin; x++ {
			switch up, down := code.Black(x, y), code.Black(x, y+1); {
			case up && down:
				line.WriteString("█")
			case up:
				line.WriteString("▀")
			case down:
				line.WriteString("▄")
			default:
				line.WriteString(" ")
			}
		}
		b.WriteString(line.String() + "\n")
	}
	return b.String()
}

// qrMarkdown is a section with the code of an address.
func qrMarkdown(address string) string {
	code := qrText(address)
	if code == "" {
		return ""
	}
	return "\n### On a phone\n\n<" + address + ">\n\n```text\n" + code + "```\n"
}
