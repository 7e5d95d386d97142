#!/bin/sh
# Installs the package and prepares the one-time boot.

try_kernel() {
    # Whatever is found below, Fuel's reboot task is next.
    check_guests
    case "$(recall phase)" in
        armed | default)
            say "$(recall release) is already installed ($(recall phase)); nothing to do"
            return
            ;;
        returning) conclude "$(recall reason)" ;;
        leaving)
            if runs_tried_kernel; then
                # It ran well enough once; verify judges it again.
                record armed-in none
                record phase armed
                say "$RUNNING stays; its removal was not completed"
                return
            fi
            ;;
        unavailable)
            # A kernel that failed is not tried again; what stopped an installation may be gone by now.
            [ -z "$(recall failed-release)" ] || conclude "$(recall reason)"
            ;;
    esac
    if [ "$RUNNING" = "$(packaged_release)" ]; then
        say "$RUNNING of $PACKAGE runs already; nothing to do"
        return
    fi
    precheck
    last_phase=$(recall phase)
    record_interfaces
    secure_old_kernel
    hold_old_kernel
    install_package "$last_phase"
    release=$(packaged_release)
    record release "$release"
    record armed-in "$(boot_id)"
    set_deadline
    if ! boot_once "$release"; then
        take_back
        give_up kernel_choice "the boot menu has no usable entry for $release" 'see what update-grub says'
    fi
    record phase armed
    forget reason
    say "$release is booted once at the next reboot; $(recall before) stays the default"
}

# The old kernel is the way back: no upgrade and no autoremove takes it.
hold_old_kernel() {
    owner=$(dpkg-query -S "/boot/vmlinuz-$RUNNING" 2>/dev/null | sed 's/:.*//') || owner=''
    [ -n "$owner" ] || return 0
    [ -z "$(apt-mark showhold "$owner")" ] || return 0
    record held "$owner"
    apt-mark hold "$owner" >/dev/null
}

install_package() {
    if [ "$1" = securing ]; then
        # The last run was interrupted, dpkg perhaps as well: apt refuses to go on before this.
        dpkg --configure -a >/dev/null 2>&1 || true
    fi
    if ! words=$(DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o Dpkg::Options::=--force-confold "$PACKAGE${VERSION:+=$VERSION}" 2>&1); then
        echo "$words" >&2
        fault=$(echo "$words" | sed -n 's/^\(E: .*\|dpkg: error.*\|calico-ebpf-kernel: .*\)/\1/p' | head -n 1)
        take_back
        give_up kernel_choice "apt-get cannot install $PACKAGE${VERSION:+ $VERSION} (${fault:-its words are above})" \
            'repair what it names (damaged downloads: apt-get clean, and the plugin package on the Fuel master), then deploy again'
    fi
    release=$(packaged_release)
    for file in "vmlinuz-$release" "initrd.img-$release"; do
        [ ! -s "$ROOT/boot/$file" ] || continue
        take_back
        give_up kernel_choice "$PACKAGE was installed, but /boot/$file is absent or empty" \
            "run update-initramfs -c -k $release and see what it says"
    done
    # Half an initial file system boots into a panic; it is cheaper to see it here.
    if ! gzip -t "$ROOT/boot/initrd.img-$release" 2>/dev/null && ! whole_archive "$ROOT/boot/initrd.img-$release"; then
        take_back
        give_up kernel_choice "/boot/initrd.img-$release is damaged" "run update-initramfs -u -k $release and see what it says"
    fi
}

# whole_archive FILE: tells whether an initial file system with microcode in front, or another compression, can be read.
whole_archive() {
    command -v lsinitramfs >/dev/null && lsinitramfs "$1" >/dev/null 2>&1
}
