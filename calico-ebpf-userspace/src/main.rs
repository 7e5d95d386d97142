//! `calico-ebpf`: the agent and its command line.

fn main() -> std::process::ExitCode {
    calico_ebpf_userspace::cli::main()
}
