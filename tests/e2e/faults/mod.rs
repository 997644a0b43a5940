mod chaos;
mod delivery_model;
mod fuzz;
mod injection;
mod killed;
mod quarantine;
