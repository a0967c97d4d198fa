-- What requests use besides tokens: images, sound in milliseconds, and characters that are spoken. A replica of an older Modelgate
-- counts none of these.
ALTER TABLE usage ADD COLUMN images BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN sound BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN characters BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_hours ADD COLUMN images BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_hours ADD COLUMN sound BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_hours ADD COLUMN characters BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_months ADD COLUMN images BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_months ADD COLUMN sound BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_months ADD COLUMN characters BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_models ADD COLUMN images BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_models ADD COLUMN sound BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_models ADD COLUMN characters BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_model_months ADD COLUMN images BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_model_months ADD COLUMN sound BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_model_months ADD COLUMN characters BIGINT NOT NULL DEFAULT 0;
