//! Errors that a member answers with: messages of type 0.

use crate::hazelcast::error::{Error, Result};
use crate::hazelcast::message::Incoming;

use super::types::{Fixed, nullable_string, string};

/// The message type of every error.
const ERROR_TYPE: i32 = 0;

impl Incoming {
    /// The member's error, where this is one.
    pub(crate) fn as_error(&self) -> Option<Error> {
        (self.message_type() == ERROR_TYPE).then(|| self.to_error())
    }

    fn to_error(&self) -> Error {
        self.first_error_holder().unwrap_or_else(|error| {
            Error::protocol("the member answered an error that cannot be read").caused_by(error)
        })
    }

    /// `ErrorHolder` (`Custom.yaml`): the first of the list is the error itself, the others are its causes.
    fn first_error_holder(&self) -> Result<Error> {
        let mut frames = self.frames();
        frames.begin_struct()?;
        frames.begin_struct()?;
        let code = Fixed::new(frames.next_value()?.content).int()?;
        let class_name = string(&mut frames)?;
        let message = nullable_string(&mut frames)?;
        Ok(Error::server(code, &class_name, message.as_deref().unwrap_or_default()))
    }
}
