// Package device boots whole machines for tests: a Debian without Docker under
// QEMU, with sticks that are plugged in and pulled out and power that is cut.
//
// Nothing of this machine's is touched: the guest has no network, and it is
// talked to through QEMU's guest agent.
package device

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// VM is a running machine.
type VM struct {
	dir   string
	cmd   *exec.Cmd
	qmp   *monitor // the machine
	agent *monitor // who answers inside
}

// Image is the directory scripts/vm-image.sh prints.
type Image string

// Overlay makes a disk in file that begins as another; what is written stays in
// file.
func Overlay(disk, file string) error {
	return command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk, file)
}

// Boot starts a machine from a disk and waits until it can be talked to. Files
// of the machine, among them the console, are below dir; more are arguments of
// QEMU.
func (i Image) Boot(ctx context.Context, dir, disk string, more ...string) (_ *VM, err error) {
	v, err := i.start(ctx, dir, disk, more...)
	if err != nil {
		return nil, err
	}
	if v.agent, err = dial(ctx, filepath.Join(dir, "agent.sock")); err == nil {
		err = v.wait(ctx)
	}
	if err != nil {
		v.Cut()
		console, _ := os.ReadFile(filepath.Join(dir, "console.log"))
		return nil, fmt.Errorf("boot: %w; its console ends with: %s", err, console[max(0, len(console)-2000):])
	}
	return v, nil
}

// Thaw starts a machine in the middle of what it did when Freeze wrote its
// memory, with its disk of that moment. It is only good for being cut.
func (i Image) Thaw(ctx context.Context, dir, disk, memory string, more ...string) (*VM, error) {
	v, err := i.start(ctx, dir, disk, append([]string{"-incoming", "exec:cat " + memory}, more...)...)
	if err != nil {
		return nil, err
	}
	if err := v.until(ctx, "query-status", "paused"); err != nil {
		v.Cut()
		return nil, fmt.Errorf("thaw: %w", err)
	}
	if _, err := v.qmp.do("cont", nil); err != nil {
		v.Cut()
		return nil, fmt.Errorf("thaw: %w", err)
	}
	return v, nil
}

// start starts a machine.
func (i Image) start(ctx context.Context, dir, disk string, more ...string) (_ *VM, err error) {
	v := &VM{dir: dir}
	qmp, agent := filepath.Join(dir, "qmp.sock"), filepath.Join(dir, "agent.sock")
	os.Remove(qmp)
	os.Remove(agent)
	v.cmd = exec.Command("qemu-system-x86_64", append([]string{
		"-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-nodefaults", "-display", "none", "-nic", "none", "-no-reboot",
		"-kernel", filepath.Join(string(i), "vmlinuz"), "-initrd", filepath.Join(string(i), "initrd"),
		"-append", "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 systemd.show_status=0 mitigations=off",
		"-drive", "file=" + disk + ",if=virtio,format=qcow2,cache=writeback",
		"-device", "qemu-xhci,id=usb",
		"-device", "virtio-serial", "-chardev", "socket,id=agent,path=" + agent + ",server=on,wait=off", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
		"-device", "virtio-rng-pci",
		"-serial", "file:" + filepath.Join(dir, "console.log"),
		"-qmp", "unix:" + qmp + ",server=on,wait=off",
	}, more...)...)
	log, err := os.Create(filepath.Join(dir, "qemu.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	v.cmd.Stdout, v.cmd.Stderr = log, log
	if err := v.cmd.Start(); err != nil {
		return nil, err
	}
	if v.qmp, err = dial(ctx, qmp); err == nil {
		_, err = v.qmp.do("qmp_capabilities", nil)
	}
	if err != nil {
		v.Cut()
		return nil, err
	}
	return v, nil
}

// wait returns when the agent inside answers.
func (v *VM) wait(ctx context.Context) error {
	for id := 1; ; id++ {
		v.agent.conn.SetDeadline(time.Now().Add(2 * time.Second))
		answer, err := v.agent.do("guest-sync", map[string]any{"id": id})
		// Questions from before it was there are answered first.
		for err == nil && string(answer) != strconv.Itoa(id) {
			answer, err = v.agent.answer("guest-sync")
		}
		v.agent.conn.SetDeadline(time.Time{})
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("it does not answer: %w", context.Cause(ctx))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// Run runs a shell command inside and returns what it printed and its exit code.
// It gives up, and the command goes on, when ctx ends.
func (v *VM) Run(ctx context.Context, script string) (output string, code int, err error) {
	answer, err := v.agent.do("guest-exec", map[string]any{"path": "/bin/sh", "arg": []string{"-c", "exec 2>&1; " + script}, "capture-output": true,
		"env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}})
	if err != nil {
		return "", 0, err
	}
	var started struct{ PID int }
	if err := json.Unmarshal(answer, &started); err != nil {
		return "", 0, err
	}
	for {
		answer, err := v.agent.do("guest-exec-status", map[string]any{"pid": started.PID})
		if err != nil {
			return "", 0, err
		}
		var s struct {
			Exited   bool
			ExitCode int
			Out      string `json:"out-data"`
		}
		if err := json.Unmarshal(answer, &s); err != nil {
			return "", 0, err
		}
		if s.Exited {
			out, err := base64.StdEncoding.DecodeString(s.Out)
			return string(out), s.ExitCode, err
		}
		select {
		case <-ctx.Done():
			return "", 0, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Plug plugs a stick in; image is a raw disk. A read-only one has a switch that
// says so.
func (v *VM) Plug(name, image string, readOnly bool) error {
	_, err := v.qmp.do("blockdev-add", map[string]any{"driver": "raw", "node-name": name, "read-only": readOnly,
		"file": map[string]any{"driver": "file", "filename": image, "read-only": readOnly}})
	if err != nil {
		return err
	}
	_, err = v.qmp.do("device_add", map[string]any{"driver": "usb-storage", "id": name, "drive": name, "bus": "usb.0", "removable": true})
	return err
}

// Pull pulls a stick out, whatever it is doing.
func (v *VM) Pull(name string) error {
	if _, err := v.qmp.do("device_del", map[string]any{"id": name}); err != nil {
		return err
	}
	for range 100 {
		if _, err := v.qmp.do("blockdev-del", map[string]any{"node-name": name}); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("the machine does not let go of %s", name)
}

// Freeze writes the memory of the machine and its disk of the same moment to
// files; then it goes on.
func (v *VM) Freeze(ctx context.Context, disk, toMemory, toDisk string) error {
	if _, err := v.qmp.do("stop", nil); err != nil {
		return err
	}
	if _, err := v.qmp.do("migrate", map[string]any{"uri": "exec:cat >" + toMemory}); err != nil {
		return err
	}
	if err := v.until(ctx, "query-migrate", "completed"); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	if err := command("cp", "--sparse=always", disk, toDisk); err != nil {
		return err
	}
	_, err := v.qmp.do("cont", nil)
	return err
}

// until asks until the answer has a status.
func (v *VM) until(ctx context.Context, question, status string) error {
	for {
		b, err := v.qmp.do(question, nil)
		if err != nil {
			return err
		}
		var is struct{ Status string }
		if err := json.Unmarshal(b, &is); err != nil || is.Status == status {
			return err
		}
		if is.Status == "failed" {
			return fmt.Errorf("%s: %s", question, b)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %s: %w", question, b, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Cut cuts the power. What the disk had not been told to keep is lost with the
// guest's memory.
func (v *VM) Cut() {
	v.cmd.Process.Kill()
	v.cmd.Wait()
}

// Off shuts the machine down in order.
func (v *VM) Off(ctx context.Context) error {
	if _, err := v.agent.send("guest-shutdown", nil); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- v.cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		v.cmd.Process.Kill()
		<-done
		return fmt.Errorf("shut down: %w", context.Cause(ctx))
	}
}

// monitor speaks the protocol of QEMU's monitor and of its guest agent: an object
// per line.
type monitor struct {
	conn net.Conn
	r    *bufio.Reader
}

func dial(ctx context.Context, path string) (*monitor, error) {
	for {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return &monitor{conn, bufio.NewReader(conn)}, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (m *monitor) send(name string, arguments any) (int, error) {
	request := map[string]any{"execute": name}
	if arguments != nil {
		request["arguments"] = arguments
	}
	b, err := json.Marshal(request)
	if err != nil {
		return 0, err
	}
	return m.conn.Write(append(b, '\n'))
}

func (m *monitor) do(name string, arguments any) (json.RawMessage, error) {
	if _, err := m.send(name, arguments); err != nil {
		return nil, err
	}
	return m.answer(name)
}

// answer reads up to the next answer.
func (m *monitor) answer(name string) (json.RawMessage, error) {
	for {
		line, err := m.r.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Class, Desc string }
		}
		if err := json.Unmarshal(line, &answer); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if answer.Error != nil {
			return nil, fmt.Errorf("%s: %s", name, answer.Error.Desc)
		}
		if answer.Return != nil { // not a greeting and not an event
			return answer.Return, nil
		}
	}
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
