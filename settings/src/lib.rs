//! Settings of a server in one struct: each field is an option, an environment variable and a key of a TOML file, in this
//! order of precedence, and [`Default`] provides the rest.
//!
//! A server derives [`clap::Args`] and [`serde::Deserialize`] for its struct and takes [`Layered`] as its arguments. The
//! [`de`] module reads values from TOML as the command line reads them. Independent of any server.

pub mod de;
mod dirs;
mod size;

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde::de::DeserializeOwned;

pub use dirs::state_dir;
pub use size::{SizeError, size};

/// A server's settings. The derived `Args` never has to produce a value from nothing: it updates one.
pub trait Settings: Args + Default + DeserializeOwned {
    /// Clears settings of the file that a group of `given` options or variables replaces as a whole.
    fn replace_groups(&mut self, _given: &dyn Fn(&str) -> bool) {}
}

/// The arguments of a server: all fields of `T` as options, `--config` and `--check-config`.
#[derive(Clone, Debug)]
pub struct Layered<T> {
    source: Source,
    given: ArgMatches,
    settings: std::marker::PhantomData<T>,
}

#[derive(Clone, Debug, Args)]
struct Source {
    /// TOML file with these settings; its keys are the names of the options
    #[arg(long, env = "USHER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings and the files that they name, then exit
    #[arg(long)]
    check_config: bool,
}

impl<T: Settings> Layered<T> {
    /// Whether the settings are to be checked only.
    pub fn check_only(&self) -> bool {
        self.source.check_config
    }

    /// The settings: options and environment variables override the file, which overrides the defaults.
    ///
    /// # Errors
    /// The file cannot be read, or a line is wrong; the error names it.
    pub fn load(&self) -> anyhow::Result<T> {
        let mut settings = match &self.source.config {
            Some(path) => fs::read_to_string(path)
                .map_err(anyhow::Error::from)
                .and_then(|text| Ok(toml::from_str(&text)?))
                .with_context(|| format!("read config file {}", path.display()))?,
            None => T::default(),
        };
        settings.replace_groups(&|name| self.given.contains_id(name));
        settings.update_from_arg_matches(&self.given)?;
        Ok(settings)
    }
}

impl<T> FromArgMatches for Layered<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let source = Source::from_arg_matches(matches)?;
        Ok(Self { source, given: matches.clone(), settings: std::marker::PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<T: Settings> Args for Layered<T> {
    fn augment_args(command: Command) -> Command {
        // The file or the default may have what is not given.
        Source::augment_args(T::augment_args(command).mut_args(|arg| arg.required(false)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests;
