//! The lines of scripts as MQTT packets and back, for a client that sends whatever it is told to and
//! shows all that it gets. It shares no code with the broker.

pub mod compare;
pub mod decode;
pub mod encode;
pub mod prefix;
pub mod wire;
pub mod words;
