package environ

import (
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
)

// What systemd 252 makes of files; TestSystemd of cmd/valise-installer compares many
// more with the real one.
func TestSystemdParse(t *testing.T) {
	for _, tc := range []struct {
		data string
		want map[string]string
	}{
		{"PORT=8095 # the port\nexport X=1\nB;x\n", map[string]string{"PORT": "8095 # the port"}},
		{"; c\n# c\n A = x y \t\nB=\nC=", map[string]string{"A": "x y", "B": "", "C": ""}},
		{`OWNER="Tim O'Brien"` + "\n" + `P="a'b\"c\$d\x\\"` + "\n", map[string]string{"OWNER": "Tim O'Brien", "P": `a'b"c$d\x\`}},
		{`A='a\'b` + "\n", map[string]string{"A": `a\b`}},
		{`A='x' "y"z 'q' ` + "\n", map[string]string{"A": "xyz 'q'"}},
		{"A=a\\\nb\\ \nB='1\n2'\nC=\"1\\\n2\"\n", map[string]string{"A": "ab ", "B": "1\n2", "C": "12"}},
		{"A=${B}\nB=$A`id`\n", map[string]string{"A": "${B}", "B": "$A`id`"}},
		{"A=1\r\nB=2\r\nA=3", map[string]string{"A": "3", "B": "2"}},
		{"1A=x\nA B=x\nC=\x01\x7f\n=x\n=y=z\nD=ok\n", map[string]string{"C": "\x01\x7f", "D": "ok"}},
		{"# a\\\n# b\nA=1\n", map[string]string{"A": "1"}},
	} {
		f, err := Systemd.Parse([]byte(tc.data))
		if err != nil || !maps.Equal(f.values, tc.want) {
			t.Errorf("%q: got %v, %v, want %q", tc.data, f, err, tc.want)
		}
	}
	for _, tc := range []struct{ data, part string }{
		{"A=1\nB='hunter2\nC=1", "line 2 do not end"},
		{"A=1\nB=\xff", "line 2 is not UTF-8"},
		{"A=\uffff", "line 1 is not UTF-8"},
		{"A=\x00", "zero byte"},
		{"A=1\n# c:\\\nB=hunter2\n", "line 2: a comment ends with a backslash"},
	} {
		_, err := Systemd.Parse([]byte(tc.data))
		wantErr(t, err, tc.part)
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows a part of the file: %v", err)
		}
	}
}

func TestSystemdSet(t *testing.T) {
	for _, tc := range []struct{ name, before, value, after string }{
		{"in place, and the comment that is none goes", "# c\nA=8095 # the port\nB=2\n", "8096", "# c\nA=8096\nB=2\n"},
		{"quotes", "A = \"x\ny\" 'z' \r\nB=2\r\n", "it's", "A = \"it's\" \r\nB=2\r\n"},
		{"export is another key", "export A=1\n", "2", "export A=1\nA=2\n"},
		{"dollar", "", `a$b`, "A='a$b'\n"},
		{"all", "A=", "a'b\"c$d`e\\f #\n", "A=\"a'b\\\"c\\$d\\`e\\\\f #\n\""},
		{"empty", "A=1\n", "", "A=''\n"},
		{"blank", "A=\n", " ", "A=' '\n"},
	} {
		f, err := Systemd.Parse([]byte(tc.before))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Set("A", tc.value); err != nil || string(f.Bytes()) != tc.after {
			t.Errorf("%s: got  %q, %v\nwant %q", tc.name, f.Bytes(), err, tc.after)
		}
	}
	f, _ := Systemd.Parse([]byte("B=2\n# c\\"))
	for _, value := range []string{"\xff", "\ufffe", "plain"} { // the last one would be a part of the comment
		wantErr(t, f.Set("A", value), "cannot express")
	}
	if string(f.Bytes()) != "B=2\n# c\\" {
		t.Error("a refused Set changed the file")
	}
}

func TestSystemdSetProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	bases := []string{"", "A=1", "# c\nA=\nB=2", "A\nZ='q'\n", "export A=\"x\" B=2\nA='y'#z\n", "A = x \\\n y\r\n;c\nL=\"1\n2\" 3\n"}
	for i := range 5_000 {
		base, key, value := bases[i%len(bases)], []string{"A", "NEW", "Z"}[r.IntN(3)], strings.NewReplacer("\xff", "").Replace(randomText(r))
		f, err := Systemd.Parse([]byte(base))
		if err != nil {
			t.Fatal(err)
		}
		want := maps.Clone(f.values)
		want[key] = value
		if err := f.Set(key, value); err != nil {
			t.Fatalf("set %s to %q in %q: %v", key, value, base, err)
		}
		if again, err := Systemd.Parse(f.Bytes()); err != nil || !maps.Equal(again.values, want) {
			t.Fatalf("set %s to %q in %q: reads back %q, %v\n%s", key, value, base, again.values, err, f.Bytes())
		}
	}
}

func TestRemarks(t *testing.T) {
	const data = "export A=1\nPORT=1 # c\n\nhello\nB='x # y'\nC=\"a\x01\"\n1D=x\nE=a#b\n"
	f, err := Systemd.Parse([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	want := "line 1 begins with export, and systemd passes it over; line 2 has a # behind its value: systemd takes it for a part of the value of PORT; " +
		"line 4 is not KEY=VALUE, and systemd passes it over; line 7 has a key that can be none, and systemd passes it over"
	if got := strings.Join(f.Remarks(), "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if f := mustParse(t, "export A=1 # c\n"); f.Remarks() != nil {
		t.Error("compose reads such lines")
	}
}

// Set in any file that systemd reads changes one value or, with an error, nothing.
func FuzzSystemdSet(f *testing.F) {
	seeds(f, func(data string) { f.Add(data, "A", "x'\\") })
	f.Fuzz(func(t *testing.T, data, key, value string) {
		file, err := Systemd.Parse([]byte(data))
		if err != nil {
			return
		}
		want := maps.Clone(file.values)
		if err := file.Set(key, value); err != nil {
			if string(file.Bytes()) != data || !maps.Equal(want, file.values) {
				t.Fatalf("%q: refused, yet changed to %q", data, file.Bytes())
			}
			return
		}
		want[key] = value
		if after, err := Systemd.Parse(file.Bytes()); err != nil || !maps.Equal(after.values, want) {
			t.Fatalf("%q: set %q to %q: got %q, %v", data, key, value, after.values, err)
		}
	})
}
