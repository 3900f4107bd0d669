package main

import (
	"strings"

	"rsc.io/qr"
)

// qrMargin is the white border around a code, in modules: what the standard wants.
const qrMargin = 4

// qrText writes an address as a QR code of text, two modules a character, or nothing
// when it is too long for one.
func qrText(address string) string {
	code, err := qr.Encode(address, qr.M)
	if err != nil {
		return ""
	}
	var b strings.Builder
	for y := -qrMargin; y < code.Size+qrMargin; y += 2 {
		for x := -qrMargin; x < code.Size+qrMargin; x++ {
			switch up, down := code.Black(x, y), code.Black(x, y+1); {
			case up && down:
				b.WriteRune('█')
			case up:
				b.WriteRune('▀')
			case down:
				b.WriteRune('▄')
			default:
				b.WriteRune(' ')
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// qrMarkdown is a section with the code of an address. GitHub keeps no SVG and no image
// in a text. It is code in a heading, whose lines are close enough for a camera; those
// of a code block are not.
func qrMarkdown(address string) string {
	code := strings.NewReplacer(" ", "&nbsp;", "\n", "<br>").Replace(strings.TrimSuffix(qrText(address), "\n"))
	if code == "" {
		return ""
	}
	return "\n### On a phone\n\n<" + address + ">\n\n<h3><code>" + code + "</code></h3>\n"
}
