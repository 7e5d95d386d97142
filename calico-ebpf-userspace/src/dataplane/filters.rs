//! clsact filters, for kernels without tcx (below Linux 6.6).
//!
//! Priority and handle are fixed: they are the mark by which ours are known after a restart.

use aya::programs::TcAttachType;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use futures::TryStreamExt;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

use super::interfaces::Interface;
use super::links::{Direction, Finding, OldLinks};
use super::programs::Programs;
use super::state_file::StateFile;

/// Priority of our filters: first of all.
const PRIORITY: u16 = 1;
/// Handle of our filters.
const HANDLE: u32 = 0xceb;

/// Makes sure that our filter is on one hook of `tap` and runs this run's program.
///
/// # Errors
/// When it cannot be put there.
pub(super) async fn ensure(
    netlink: &rtnetlink::Handle,
    tap: &Interface,
    direction: Direction,
    programs: &mut Programs,
    old_links: OldLinks,
    state: &mut StateFile,
) -> anyhow::Result<Finding> {
    let filters = filters_of(netlink, tap.ifindex, direction.hook()).await?;
    if let Some(first) = filters.first()
        && !first.is_ours()
    {
        tracing::warn!(interface = %tap.name, priority = first.priority, "a foreign filter runs before ours");
    }
    let program = programs.program(direction.program())?;
    let Some(ours) = filters.iter().find(|filter| filter.is_ours()) else {
        add_clsact(netlink, tap, state).await?;
        let options = NlOptions {
            priority: PRIORITY,
            handle: TcHandle::from(HANDLE),
            classid: None,
        };
        let link =
            program.attach_with_options(&tap.name, direction.hook(), TcAttachOptions::Netlink(options))?;
        // Dropping the link would remove the filter, which must outlive the agent.
        std::mem::forget(program.take_link(link)?);
        return Ok(Finding::Attached);
    };
    if ours.program_id == Some(program.info()?.id()) || old_links == OldLinks::Keep {
        return Ok(Finding::InPlace);
    }
    let link = program.attach_to_link(our_link(tap, direction.hook())?)?;
    std::mem::forget(program.take_link(link)?);
    Ok(Finding::Updated)
}

/// Returns whether our filter is the first on one hook of an interface.
///
/// # Errors
/// When the kernel does not answer.
pub(super) async fn is_first(
    netlink: &rtnetlink::Handle,
    interface: &Interface,
    direction: Direction,
) -> anyhow::Result<bool> {
    let filters = filters_of(netlink, interface.ifindex, direction.hook()).await?;
    Ok(filters.first().is_some_and(Filter::is_ours))
}

/// Removes our filters from an interface. Returns whether there were any.
///
/// # Errors
/// When the kernel refuses.
pub(super) async fn remove(netlink: &rtnetlink::Handle, interface: &Interface) -> anyhow::Result<bool> {
    let mut found = false;
    for direction in Direction::ALL {
        let filters = filters_of(netlink, interface.ifindex, direction.hook()).await?;
        if filters.iter().any(Filter::is_ours) {
            drop(our_link(interface, direction.hook())?);
            found = true;
        }
    }
    Ok(found)
}

/// Removes the clsact qdisc of an interface if no filter uses it.
///
/// # Errors
/// When the kernel refuses.
pub(super) async fn remove_unused_clsact(
    netlink: &rtnetlink::Handle,
    interface: &Interface,
) -> anyhow::Result<bool> {
    for direction in Direction::ALL {
        if !filters_of(netlink, interface.ifindex, direction.hook())
            .await?
            .is_empty()
        {
            return Ok(false);
        }
    }
    let Some(qdisc) = clsact_of(netlink, interface.ifindex).await? else {
        return Ok(false);
    };
    let mut request = netlink.qdisc().del(interface.ifindex.cast_signed());
    request.message_mut().header.parent = qdisc.header.parent;
    request.message_mut().header.handle = qdisc.header.handle;
    request.execute().await?;
    Ok(true)
}

/// Our filter as aya knows it. Dropping the value removes the filter.
fn our_link(interface: &Interface, hook: TcAttachType) -> std::io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(&interface.name, hook, PRIORITY, TcHandle::from(HANDLE), None)
}

async fn add_clsact(
    netlink: &rtnetlink::Handle,
    tap: &Interface,
    state: &mut StateFile,
) -> anyhow::Result<()> {
    if clsact_of(netlink, tap.ifindex).await?.is_some() {
        return Ok(());
    }
    state.state.clsact.insert((tap.ifindex, tap.name.clone()));
    state.save()?;
    qdisc_add_clsact(&tap.name)?;
    Ok(())
}

async fn clsact_of(netlink: &rtnetlink::Handle, ifindex: u32) -> anyhow::Result<Option<TcMessage>> {
    let qdiscs: Vec<_> = netlink.qdisc().get().execute().try_collect().await?;
    Ok(qdiscs.into_iter().find(|qdisc| {
        qdisc.header.index.cast_unsigned() == ifindex
            && qdisc.attributes.contains(&TcAttribute::Kind("clsact".to_owned()))
    }))
}

/// One filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Filter {
    priority: u16,
    handle: u32,
    program_id: Option<u32>,
}

impl Filter {
    fn is_ours(&self) -> bool {
        self.priority == PRIORITY && self.handle == HANDLE && self.program_id.is_some()
    }

    fn from_message(message: &TcMessage) -> Option<Self> {
        let handle = u32::from(message.header.handle);
        let priority = u16::try_from(message.header.info >> 16).ok()?;
        // The dump begins each priority with a line of its own that is no filter.
        if handle == 0 {
            return None;
        }
        let program_id = message.attributes.iter().find_map(program_in);
        Some(Self {
            priority,
            handle,
            program_id,
        })
    }
}

fn program_in(attribute: &TcAttribute) -> Option<u32> {
    let TcAttribute::Options(options) = attribute else {
        return None;
    };
    options.iter().find_map(|option| {
        let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option else {
            return None;
        };
        Some(*id)
    })
}

/// Returns the filters of one hook in the order in which they run.
async fn filters_of(
    netlink: &rtnetlink::Handle,
    ifindex: u32,
    hook: TcAttachType,
) -> anyhow::Result<Vec<Filter>> {
    let mut filters = netlink.traffic_filter(ifindex.cast_signed());
    let request = match hook {
        TcAttachType::Egress => filters.get().egress(),
        TcAttachType::Ingress | TcAttachType::Custom(_) => filters.get().ingress(),
    };
    let messages: Vec<_> = request.execute().try_collect().await?;
    Ok(messages.iter().filter_map(Filter::from_message).collect())
}
