#!/bin/sh
# The way back of a node that came up with the new kernel but that nothing reaches: an init job.

UPSTART_JOB=$ROOT/etc/init/calico-kernel-deadline.conf
SYSTEMD_UNIT=$ROOT/etc/systemd/system/calico-kernel-deadline.service
SYSTEMD_WANTS=$ROOT/etc/systemd/system/multi-user.target.wants/calico-kernel-deadline.service

# set_deadline: starts the job with every boot until forget_deadline.
set_deadline() {
    record deadline "$DEADLINE"
    record policy "$POLICY"
    if [ -d "$ROOT/run/systemd/system" ]; then
        cat >"$SYSTEMD_UNIT" <<TEXT
[Unit]
Description=Return to the old kernel when nobody verifies the new one

[Service]
ExecStart=$HERE/calico-kernel deadline
TEXT
        mkdir -p "${SYSTEMD_WANTS%/*}"
        ln -sf "../${SYSTEMD_UNIT##*/}" "$SYSTEMD_WANTS"
    else
        mkdir -p "${UPSTART_JOB%/*}"
        cat >"$UPSTART_JOB" <<TEXT
description "Return to the old kernel when nobody verifies the new one"
start on runlevel [2345]
exec $HERE/calico-kernel deadline
TEXT
    fi
    sync
}

forget_deadline() {
    rm -f "$UPSTART_JOB" "$SYSTEMD_UNIT" "$SYSTEMD_WANTS"
    forget deadline
}

uptime_seconds() {
    read -r seconds rest <"$ROOT/proc/uptime"
    : "$rest"
    echo "${seconds%%.*}"
}

await_deadline() {
    if ! runs_tried_kernel; then
        [ "$(recall phase)" = returning ] || exit 0
        # This is the boot into the old kernel that the job, or verify, asked for.
        record phase unavailable
        [ "$(recall policy)" != iptables ] || write_marker "$(recall reason)"
        end_the_try
        forget_deadline
        say "$(recall reason); the old kernel $RUNNING is back"
        exit 0
    fi
    limit=$(recall deadline)
    limit=${limit:-$DEADLINE}
    while :; do
        case "$(recall phase)" in
            armed) ;;
            returning)
                sleep 60
                break
                ;;
            *) exit 0 ;;
        esac
        if [ "$(uptime_seconds)" -ge "$limit" ]; then
            record failed-release "$RUNNING"
            record reason "setting kernel_choice: $RUNNING came up, but nothing verified it within $limit s of its boot; cure: see whether the network and the deployment reach this node on that kernel, or set kernel_choice to keep"
            record phase returning
            break
        fi
        sleep 2
    done
    say "$(recall reason); rebooting into the old kernel $(recall before)"
    reboot
    # A system that does not stop by itself is no reason to stay.
    sleep 120
    sync
    echo b >/proc/sysrq-trigger
}
