//! Which budget a command is about.

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use limits::{Calendar, read_money};
use store::{BudgetOf, BudgetOwner};

use super::output::Output;

/// The commands on budgets.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Budgets {
    /// Print what is spent of a budget, of how much, and when it begins anew
    Show(Budget),
    /// Add an amount to a budget for its present period; the next period has none of it
    TopUp {
        /// The amount, such as 20 or 0.50, in the currency of `prices`
        #[arg(value_name = "AMOUNT", value_parser = amount)]
        amount: u64,
        #[command(flatten)]
        budget: Budget,
    },
    /// Let what is spent until now not count any more
    ///
    /// What is kept as usage and its cost stays as it is. What requests have reserved that are under way stays reserved. Once they have
    /// ended, what they have cost counts.
    Reset(Budget),
}

/// A budget.
#[derive(Debug, Clone, Args)]
pub(crate) struct Budget {
    /// The key that has it
    #[arg(long, value_name = "NAME", required_unless_present = "consumer", conflicts_with = "consumer")]
    key: Option<String>,
    /// The consumer that has it
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// The model, by its own name or an alias, for a budget below `limit_per_model`
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Its period; ever is that of `budget_total`
    #[arg(long, value_name = "PERIOD", value_parser = PossibleValuesParser::new(["day", "week", "month", "ever"]))]
    per: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

impl Budget {
    /// Which it is. The command line has a key or a consumer.
    pub(crate) fn of(&self) -> BudgetOf {
        let whose = match &self.key {
            Some(key) => BudgetOwner::Key(key.clone()),
            None => BudgetOwner::Consumer(self.consumer.clone().unwrap_or_default()),
        };
        let per = Calendar::find(&self.per).unwrap_or(Calendar::Month);
        BudgetOf { whose, model: self.model.clone(), per }
    }
}

fn amount(text: &str) -> Result<u64, String> {
    let allowed = "allowed: an amount such as 20 or 0.50, above 0 and up to 1000000000";
    read_money(text).filter(|amount| *amount > 0).ok_or_else(|| allowed.to_owned())
}
