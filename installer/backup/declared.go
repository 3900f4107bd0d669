package backup

// valueFunction begins the scripts that run in a service: value NAME... prints the
// first variable of the service that is set, or the content of the file that
// NAME_FILE names, as the entry points of common images do. So values stay in the
// container, and out of every command line.
const valueFunction = `
set -u
value() {
	for name in "$@"; do
		eval "text=\${$name:-} file=\${${name}_FILE:-}"
		if [ -z "$text" ] && [ -n "$file" ]; then text=$(cat -- "$file") || exit; fi
		if [ -n "$text" ]; then printf '%s' "$text"; return; fi
	done
}
`
