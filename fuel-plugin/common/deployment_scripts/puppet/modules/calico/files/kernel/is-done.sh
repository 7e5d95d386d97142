#!/bin/sh
# Whether a command has nothing to do: for Puppet, that a second run is no change.

# is_done COMMAND: what fails is never done, so that each run says why.
is_done() {
    case "$1" in
        try)
            # Guests have to stop it before the reboot that follows.
            [ -z "$(running_guests)" ] || return 1
            case "$(recall phase)" in
                armed | default) return 0 ;;
                unavailable) [ -n "$(recall failed-release)" ] && gave_iptables ;;
                *) return 1 ;;
            esac
            ;;
        verify)
            case "$(recall phase)" in
                default) runs_tried_kernel && [ ! -e "$MARKER" ] ;;
                unavailable) gave_iptables ;;
                *) return 1 ;;
            esac
            ;;
        keep) [ "$(recall kept)" = "$RUNNING" ] && [ ! -e "$MARKER" ] ;;
        remove)
            [ ! -e "$MARKER" ] || return 1
            [ "$(recall phase)" = leaving ] && runs_tried_kernel && return 0
            [ ! -d "$STATE" ] && [ -z "$(packaged_release)" ]
            ;;
        *) stop is-done "'$1' is not a command" 'see calico-kernel --help' ;;
    esac
}

gave_iptables() {
    [ "$POLICY" = iptables ] && [ -s "$MARKER" ]
}
