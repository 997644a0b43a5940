mod agreement;
mod fairness;
mod matching;
mod pubsub;
mod replay;
