//! The agent of iceoryx2: the same loop as bench/peers/python/agent.py.
//!
//! One publish-subscribe service of byte slices, and one event service that wakes the other side where
//! it sleeps: a notification a batch, and one each time the consumer has drained what there was.

mod agent;

use agent::{Failure, Options, Peer, Sink};
use core::time::Duration;
use iceoryx2::config::Config;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

const WAIT: Duration = Duration::from_millis(100);
const BATCH_MAX: usize = 256;
const BUFFER_BYTES: usize = 16 << 20;

struct Iceoryx {
    publisher: Option<Publisher<ipc::Service, [u8], ()>>,
    subscriber: Option<Subscriber<ipc::Service, [u8], ()>>,
    notifier: Notifier<ipc::Service>,
    listener: Option<Listener<ipc::Service>>,
    spin: bool,
}

impl Iceoryx {
    fn open(options: &Options) -> Result<Self, Failure> {
        let mut config = Config::default();
        config.global.prefix = options.text("prefix").as_str().try_into()?;
        config.global.set_root_path(&options.text("root").as_str().try_into()?);
        let node = NodeBuilder::new()
            .config(&config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<ipc::Service>()?;
        let name: ServiceName = options.text("stream").as_str().try_into()?;
        let buffer = (BUFFER_BYTES / options.size).clamp(64, 4096);
        let service = node
            .service_builder(&name)
            .publish_subscribe::<[u8]>()
            .payload_alignment(Alignment::new(8).expect("a power of two"))
            .enable_safe_overflow(false)
            .subscriber_max_buffer_size(buffer)
            .subscriber_max_borrowed_samples(2)
            .max_publishers(1)
            .max_subscribers(1)
            .open_or_create()?;
        let event = node.service_builder(&name).event().open_or_create()?;
        let mut peer = Iceoryx {
            publisher: None,
            subscriber: None,
            notifier: event.notifier_builder().create()?,
            listener: None,
            spin: options.spin,
        };
        if options.text("role") == "produce" {
            peer.publisher = Some(
                service
                    .publisher_builder()
                    .initial_max_slice_len(options.size)
                    .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
                    .create()?,
            );
        } else {
            peer.subscriber = Some(service.subscriber_builder().buffer_size(buffer).create()?);
            peer.listener = Some(event.listener_builder().create()?);
        }
        Ok(peer)
    }

    fn publish(&self, body: &[u8]) -> Result<(), Failure> {
        let publisher = self.publisher.as_ref().expect("a producer");
        publisher.loan_slice_uninit(body.len())?.write_from_slice(body).send()?;
        Ok(())
    }

    fn wake(&self) -> Result<(), Failure> {
        if !self.spin {
            self.notifier.notify()?;
        }
        Ok(())
    }
}

impl Peer for Iceoryx {
    fn send_pool(&mut self, bodies: &[Vec<u8>]) -> Result<(), Failure> {
        for body in bodies {
            self.publish(body)?;
        }
        self.wake()
    }

    fn send_one(&mut self, body: &[u8]) -> Result<(), Failure> {
        self.publish(body)?;
        self.wake()
    }

    fn flush(&mut self) -> Result<(), Failure> {
        Ok(()) // a sample is in the subscriber's buffer when it was sent
    }

    fn receive(&mut self, sink: &mut Sink) -> Result<(), Failure> {
        let subscriber = self.subscriber.as_ref().expect("a consumer");
        let mut got = 0;
        while got < BATCH_MAX {
            match subscriber.receive()? {
                Some(sample) => sink.body(sample.payload()),
                None => break,
            }
            got += 1;
        }
        if got == 0 && self.spin {
            core::hint::spin_loop();
        } else if got == 0 {
            self.listener.as_ref().expect("a consumer").timed_wait(|_| {}, WAIT)?;
        }
        Ok(())
    }
}

fn main() {
    set_log_level(LogLevel::Error);
    agent::run(Iceoryx::open);
}
