#!/bin/sh
# The boot menu. The old kernel is its default from before the new one is there until verify has seen the new one run;
# the new one is started once, by an entry of its own.
#
# /etc/default/grub is never written: a file beside it is, and removed again.

GRUB_DROP_IN=$ROOT/etc/default/grub.d/zz-calico-kernel.cfg
GRUB_TRY_ENTRY=$ROOT/etc/grub.d/45_calico_kernel
GRUB_MENU=$ROOT/boot/grub/grub.cfg
GRUB_ENVIRONMENT=$ROOT/boot/grub/grubenv
TRY_ENTRY=calico-kernel-try

# menu_entry RELEASE: prints the path of the menu's plain entry for a kernel, as GRUB's `default` takes it.
menu_entry() {
    awk -v wanted="gnulinux-$1-advanced-" '
        function id(line) {
            if (!match(line, /menuentry_id_option .[^\047]*\047/)) return ""
            line = substr(line, RSTART, RLENGTH)
            sub(/^[^\047]*\047/, "", line)
            sub(/\047.*/, "", line)
            return line
        }
        /^[ \t]*submenu / { submenu = id($0) ">" }
        /^}/ { submenu = "" }
        /^[ \t]*menuentry / && index(id($0), wanted) == 1 { print ($0 ~ /^[ \t]/ ? submenu : "") id($0); exit }
    ' "$GRUB_MENU"
}

# try_entry RELEASE: prints the menu's plain entry for a kernel once more, under a name of its own and with a restart
# after a panic: in the kernel, and in the initial file system when it does not find the root.
try_entry() {
    awk -v wanted="gnulinux-$1-advanced-" -v name="$TRY_ENTRY" '
        /^[ \t]*menuentry / && index($0, "\047" wanted) {
            print "menuentry \047One try of the kernel for calico-ebpf\047 --id " name " {"
            inside = 1
            next
        }
        inside && /^[ \t]*}[ \t]*$/ { print "}"; exit }
        inside && /^[ \t]*linux[a-z0-9]*[ \t]/ { print $0 " panic=60"; next }
        inside { print }
    ' "$GRUB_MENU"
}

# grub_environment NAME: prints a variable of grubenv, or nothing.
grub_environment() {
    [ -e "$GRUB_ENVIRONMENT" ] || return 0
    grub-editenv "$GRUB_ENVIRONMENT" list | sed -n "s/^$1=//p"
}

# secure_old_kernel: makes the running kernel the default, whatever is installed later.
secure_old_kernel() {
    if [ ! -e "$STATE/before-entry" ]; then
        entry=$(menu_entry "$RUNNING")
        [ -n "$entry" ] || give_up kernel_choice "the boot menu has no entry for the running kernel $RUNNING" \
            'reboot into a kernel that update-grub lists, or set kernel_choice to keep'
        if [ -e "$GRUB_ENVIRONMENT" ]; then
            record default-was "$(grub_environment saved_entry)"
        else
            record had-no-grubenv yes
        fi
        [ -d "${GRUB_DROP_IN%/*}" ] || record had-no-grub.d yes
        record before "$RUNNING"
        record before-entry "$entry"
    fi
    record phase securing
    mkdir -p "${GRUB_DROP_IN%/*}"
    cat >"$GRUB_DROP_IN" <<'TEXT'
# Written by calico-kernel, which removes it again: the default is what grub-set-default named.
GRUB_DEFAULT=saved
# A kernel that was started once must not become the default by that.
GRUB_SAVEDEFAULT=false
# Nobody sits at the console to end a menu that waits for ever, also not after a failed boot (Ubuntu's recordfail).
if [ "${GRUB_TIMEOUT:-0}" = -1 ]; then GRUB_TIMEOUT=5; fi
if [ "${GRUB_RECORDFAIL_TIMEOUT:--1}" = -1 ]; then GRUB_RECORDFAIL_TIMEOUT=5; fi
TEXT
    grub-set-default --boot-directory="$ROOT/boot" "$(recall before-entry)"
    update_menu
    # Text of grub.cfg, not a variable of this script.
    # shellcheck disable=SC2016
    if ! grep -qF 'set default="${saved_entry}"' "$GRUB_MENU" || ! grep -q next_entry "$GRUB_MENU"; then
        restore_boot_menu
        give_up kernel_choice 'this GRUB takes no default from /etc/default/grub.d, or knows no one-time boot' \
            'boot a kernel of your own and set kernel_choice to keep'
    fi
}

# boot_once RELEASE: the next boot, and only that, starts this kernel.
boot_once() {
    entry=$(try_entry "$1")
    case "$entry" in
        *" panic=60"*"}") ;;
        *) return 1 ;;
    esac
    {
        # The form of GRUB's own 40_custom: what follows is copied into the menu.
        # shellcheck disable=SC2016 # text of another script
        printf '#!/bin/sh\nexec tail -n +3 "$0"\n'
        printf '%s\n' "$entry"
    } >"$GRUB_TRY_ENTRY.new"
    chmod 755 "$GRUB_TRY_ENTRY.new"
    mv "$GRUB_TRY_ENTRY.new" "$GRUB_TRY_ENTRY"
    update_menu
    grep -q -- "--id $TRY_ENTRY " "$GRUB_MENU" || return 1
    grub-reboot --boot-directory="$ROOT/boot" "$TRY_ENTRY"
    [ "$(grub_environment next_entry)" = "$TRY_ENTRY" ] || return 1
    [ "$(grub_environment saved_entry)" = "$(recall before-entry)" ] || return 1
}

# end_the_try: no boot is a one-time boot any more.
end_the_try() {
    [ -z "$(grub_environment next_entry)" ] || grub-editenv "$GRUB_ENVIRONMENT" unset next_entry
    [ -e "$GRUB_TRY_ENTRY" ] || return 0
    rm -f "$GRUB_TRY_ENTRY"
    update_menu
}

# make_default RELEASE
make_default() {
    entry=$(menu_entry "$1")
    [ -n "$entry" ] || return 1
    grub-set-default --boot-directory="$ROOT/boot" "$entry"
    [ "$(grub_environment saved_entry)" = "$entry" ]
}

# restore_boot_menu: as it was before secure_old_kernel.
restore_boot_menu() {
    rm -f "$GRUB_DROP_IN" "$GRUB_TRY_ENTRY" "$GRUB_TRY_ENTRY.new"
    [ ! -e "$STATE/had-no-grub.d" ] || rmdir --ignore-fail-on-non-empty "${GRUB_DROP_IN%/*}"
    if [ -e "$STATE/had-no-grubenv" ]; then
        rm -f "$GRUB_ENVIRONMENT"
    elif [ -e "$STATE/before-entry" ] && [ -e "$GRUB_ENVIRONMENT" ]; then
        grub-editenv "$GRUB_ENVIRONMENT" unset next_entry
        if [ -n "$(recall default-was)" ]; then
            grub-editenv "$GRUB_ENVIRONMENT" set "saved_entry=$(recall default-was)"
        else
            grub-editenv "$GRUB_ENVIRONMENT" unset saved_entry
        fi
    fi
    update_menu
}

# update_menu: writes grub.cfg anew. What it says is shown only when it fails.
update_menu() {
    if ! menu_output=$(update-grub 2>&1); then
        echo "$menu_output" >&2
        stop kernel_choice 'update-grub failed (its words are above); the boot menu is unchanged' 'repair what it names'
    fi
    sync
}
