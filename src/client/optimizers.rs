//! Optimizers by name, each with defaults that train.

use gradwire_kernels::Rule;

macro_rules! optimizer {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident = $default:expr,)* }) => {
        $(#[$doc])*
        ///
        /// # Example
        /// ```
        #[doc = concat!("use gradwire::{Cluster, ClusterConfig, ", stringify!($name), "};")]
        /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
        #[doc = concat!("let w = session.sparse(\"w\", 2, ", stringify!($name), "::default())?;")]
        /// w.push(&[1], &[1.0, -1.0])?;
        /// assert!(w.pull(&[1])?.wait()?[0] < 0.0); // against the gradient
        /// # Ok::<(), gradwire::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name { $($(#[$fdoc])* pub $field: f32,)* }

        impl Default for $name {
            fn default() -> Self { Self { $($field: $default,)* } }
        }

        impl From<$name> for Rule {
            fn from(optimizer: $name) -> Rule {
                let $name { $($field,)* } = optimizer;
                Rule::$name { $($field,)* }
            }
        }
    };
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// # Example
        /// ```
        #[doc = concat!("use gradwire::{Cluster, ClusterConfig, ", stringify!($name), "};")]
        /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
        #[doc = concat!("let w = session.sparse(\"w\", 1, ", stringify!($name), ")?;")]
        /// w.push(&[1], &[3.0])?;
        /// assert_eq!(w.pull(&[1])?.wait()?[0], 3.0);
        /// # Ok::<(), gradwire::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name;

        impl From<$name> for Rule {
            fn from(_: $name) -> Rule { Rule::$name }
        }
    };
}

optimizer! {
    /// `w -= lr g`.
    Sgd {
        /// Learning rate.
        lr = 0.01,
    }
}
optimizer! {
    /// `v = momentum v + g; w -= lr v` (Polyak 1964).
    Momentum {
        /// Learning rate.
        lr = 0.01,
        /// Share of the old velocity that is kept.
        momentum = 0.9,
    }
}
optimizer! {
    /// `v = momentum v + g; w -= lr (g + momentum v)` (Nesterov, in the form of Sutskever et al. 2013).
    Nesterov {
        /// Learning rate.
        lr = 0.01,
        /// Share of the old velocity that is kept.
        momentum = 0.9,
    }
}
optimizer! {
    /// `n += g^2; w -= lr g / (sqrt(n) + epsilon)` for each value (Duchi et al. 2011).
    Adagrad {
        /// Learning rate.
        lr = 0.05,
        /// Keeps the first step finite.
        epsilon = 1e-8,
    }
}
optimizer! {
    /// Adagrad with one sum of mean squares a row: 4 bytes of state a row.
    RowAdagrad {
        /// Learning rate.
        lr = 0.05,
        /// Keeps the first step finite.
        epsilon = 1e-8,
    }
}
optimizer! {
    /// Adam (Kingma and Ba 2015), lazy: a row's step count grows only when it is pushed to.
    Adam {
        /// Learning rate.
        lr = 0.001,
        /// Decay of the first moment.
        beta1 = 0.9,
        /// Decay of the second moment.
        beta2 = 0.999,
        /// Keeps the step finite.
        epsilon = 1e-8,
    }
}
optimizer! {
    /// FTRL-proximal (McMahan et al. 2013): sparse weights, derived from (z, n) when they are read.
    Ftrl {
        /// Learning rate.
        alpha = 0.1,
        /// Smooths the rate of rare keys.
        beta = 1.0,
        /// L1 penalty: makes weights exactly zero.
        l1 = 0.0,
        /// L2 penalty.
        l2 = 1.0,
    }
}
optimizer! {
    /// `w += g`: counts, deltas, sums.
    Add
}
optimizer! {
    /// `w = g`: the last push wins.
    Assign
}
optimizer! {
    /// `w = max(w, g)`.
    Max
}
