//! The macro behind every wire enumeration: a newtype whose unknown values survive.

/// Defines a newtype over an integer with named constants, `name()`, `Debug` and `Display`.
macro_rules! codes {
    (
        $(#[$meta:meta])*
        pub struct $type:ident($int:ty);
        $($(#[$code_meta:meta])* $code:ident = $value:literal, $text:literal;)*
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $type(pub $int);

        impl $type {
            $(
                #[doc = concat!($text, " (", stringify!($value), ").")]
                $(#[$code_meta])*
                pub const $code: Self = Self($value);
            )*

            /// The standard's name for this value, if it has one here.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{:#04x}", self.0),
                }
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($type))
            }
        }
    };
}

pub(crate) use codes;
