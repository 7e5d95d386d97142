#!/bin/sh
# What is said, and how a run ends. A reason is always one line: node, setting, what was found, cure.

# say TEXT: a line for the deployment's log and syslog.
say() {
    echo "calico-kernel: node $NODE: $1" >&2
    # A node without a running syslog is no reason to stop.
    [ -n "$ROOT" ] || logger -t calico-kernel -- "node $NODE: $1" || true
}

# stop SETTING REASON CURE: fails, whatever the policy is.
stop() {
    say "setting $1: $2; cure: $3"
    exit 1
}

# give_up SETTING REASON CURE: ends in the state that the policy asks for.
give_up() {
    conclude "setting $1: $2; cure: $3"
}

# conclude REASON: the same for a reason that was found before.
conclude() {
    record reason "$1"
    if [ "$POLICY" = fail ]; then
        withdraw_marker
        if runs_tried_kernel; then
            # The init job does it, so that the deployment's log gets this line before.
            record phase returning
            say "$1; the old kernel $(recall before) is booted in a minute"
        else
            record phase unavailable
            say "$1"
        fi
        exit 1
    fi
    record phase unavailable
    if [ -e "$STATE/deadline" ]; then
        end_the_try
        forget_deadline
    fi
    write_marker "$1"
    if runs_tried_kernel; then
        say "$1; this node gets iptables, on $RUNNING until its next boot, then on $(recall before)"
    else
        say "$1; this node gets iptables, on $RUNNING"
    fi
    exit 0
}

# write_marker REASON
write_marker() {
    mkdir -p "$(dirname "$MARKER")"
    [ "$(cat "$MARKER" 2>/dev/null || true)" != "node $NODE: $1" ] || return 0
    echo "node $NODE: $1" >"$MARKER.new"
    mv "$MARKER.new" "$MARKER"
}

# withdraw_marker: the node can have the eBPF dataplane, or nobody asks for it.
withdraw_marker() {
    rm -f "$MARKER"
    [ ! -d "$(dirname "$MARKER")" ] || rmdir --ignore-fail-on-non-empty "$(dirname "$MARKER")"
}
