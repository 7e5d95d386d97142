use aya::EbpfLoader;
use aya::programs::SchedClassifier;

#[test]
fn every_program_passes_the_verifier() {
    let bytes = std::fs::read("/work/target-bpf/bpfel-unknown-none/bpf/calico-ebpf-programs").unwrap();
    let mut ebpf = EbpfLoader::new()
        .set_max_entries("CEBPF_FLOWS4", 1024)
        .set_max_entries("CEBPF_FLOWS6", 1024)
        .load(&bytes)
        .unwrap();
    for (name, program) in ebpf.programs_mut() {
        let program: &mut SchedClassifier = program.try_into().unwrap();
        let t = std::time::Instant::now();
        if let Err(e) = program.load() {
            let s = format!("{e}");
            let l: Vec<&str> = s.lines().collect();
            std::fs::write(format!("/tmp/ver-{name}.log"), &s).unwrap();
            println!("{name} FAIL");
        } else {
            println!(
                "{name} ok {:?} verified={:?}",
                t.elapsed(),
                program.info().unwrap().verified_instruction_count()
            );
        }
    }
    panic!();
}
