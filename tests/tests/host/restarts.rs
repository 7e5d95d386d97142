//! Twenty deaths of the agent under a transfer, against as much time without any.

use calico_ebpf_tests::wait;

use crate::observed::{observe, scene_with_forbidden_port};

const ROUNDS: u32 = 20;

#[test]
fn twenty_deaths_and_starts_of_the_agent_lose_no_flow_and_let_nothing_through() {
    let (scene, forbidden) = scene_with_forbidden_port();
    let client = scene.guest("client").namespace();
    let mut agent = Some(scene.start_agent());
    let with_deaths = observe(&scene, client, || {
        for _ in 0..ROUNDS {
            agent.take().expect("an agent runs").kill();
            agent = Some(scene.start_agent());
        }
    });
    let duration = with_deaths.duration();
    let without = observe(&scene, client, || {
        assert!(wait::poll(duration, || None::<()>).is_none());
    });
    with_deaths.assert_as_undisturbed_as(&without);
    assert_eq!(forbidden.asked(), 0);
}
