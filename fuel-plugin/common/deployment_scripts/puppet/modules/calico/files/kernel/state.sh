#!/bin/sh
# What this node remembers, one value to a file, written as a whole and before what it describes is done.
#
# phase: (none), securing, armed, default, unavailable, returning, leaving

# record NAME VALUE
record() {
    mkdir -p "$STATE"
    [ "$(recall "$1")" = "$2" ] && [ -e "$STATE/$1" ] && return
    printf '%s\n' "$2" >"$STATE/.$1.new"
    mv "$STATE/.$1.new" "$STATE/$1"
    # The next thing may be a reboot.
    sync
}

# recall NAME: prints the value, or nothing.
recall() {
    cat "$STATE/$1" 2>/dev/null || true
}

# forget NAME
forget() {
    rm -f "$STATE/$1"
}

# boot_id: prints what is another one after each boot.
boot_id() {
    cat "$ROOT/proc/sys/kernel/random/boot_id"
}

# runs_tried_kernel: tells whether the running kernel is the package's.
runs_tried_kernel() {
    [ -n "$(recall release)" ] && [ "$RUNNING" = "$(recall release)" ]
}

# packaged_release: prints the release of the installed package's kernel, or nothing.
packaged_release() {
    cat "$ROOT/usr/share/$PACKAGE/release" 2>/dev/null || true
}

show_state() {
    echo "running    $RUNNING"
    for name in phase release before before-entry reason; do
        [ -e "$STATE/$name" ] || continue
        printf '%-10s %s\n' "$name" "$(recall "$name")"
    done
    [ ! -e "$MARKER" ] || echo "marker     $MARKER"
}
